"""The docs describe what is there: commands, options, files, links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from selfseg.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "planners" / "README.md"])
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
COMMANDS = GROUP.commands


def options_of(command: str) -> set[str]:
    """Return every option name of a command."""
    return {
        name
        for parameter in COMMANDS[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_stands_in_the_readme_or_docs(name: str) -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert any(f"selfseg {name}" in text for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def anchor_of(heading: str) -> str:
    """Return the anchor that a heading gets where pages are shown."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        there = (page.parent / target if target else page).read_text(encoding="utf-8")
        anchors = {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", there, re.MULTILINE)}
        assert anchor in anchors, f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    texts = "\n".join(file.read_text(encoding="utf-8") for file in files)
    there = {*re.findall(r"def (test_\w+)\(", texts), *(file.stem for file in files)}
    named = set(re.findall(r"\b(test_\w+)", page.read_text(encoding="utf-8")))
    assert named <= there, f"{page.name}: {named - there}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_in_code_blocks_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"selfseg (?:plan|train|predict|evaluate|demo)\b[^`\n#]*", text):
        command = line.split()[1]
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
            assert option in options_of(command), f"{page.name}: {command} has no {option}"


def test_tree_in_the_readme_is_the_real_one() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b([a-z]+)/", readme.split("## Inside")[1].split("```")[1]))
    folders = {p.parent.name for p in (ROOT / "selfseg").rglob("__init__.py")} - {"selfseg"}
    assert folders <= named, f"not in the tree: {folders - named}"


def test_targets_that_the_readme_names_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "selfseg", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)
