"""The shape of the code itself: who may import whom, sizes, packaging, safety."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("selfseg", "planners")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)

PICKLE_READER = ROOT / "selfseg" / "io" / "nnunet" / "read_checkpoint.py"

RECORDS = {"records", "errors", "workspace", "progress", "arrays", "files", "words"}
TOOLKITS = {
    "io", "loading", "augmentation", "networks", "losses", "execution", "skeletons", "radiomics",
}  # fmt: skip
STAGES = {
    "fingerprinting", "preprocessing", "training", "inference", "evaluation", "reporting",
    "planning", "plan_checks", "loss_checks", "stage_checks", "budget", "postprocessing",
    "selection", "classification", "pretraining",
}  # fmt: skip
STAGE_EDGES = {
    ("inference", "preprocessing"),
    ("plan_checks", "loss_checks"),
    ("pretraining", "training"),
    ("plan_checks", "stage_checks"),
    ("training", "inference"),
    ("training", "evaluation"),
    ("inference", "postprocessing"),
    ("postprocessing", "evaluation"),
    ("selection", "inference"),
    ("selection", "evaluation"),
    ("selection", "postprocessing"),
    ("selection", "planning"),
    ("classification", "evaluation"),
    ("classification", "inference"),
    ("classification", "planning"),
    ("classification", "preprocessing"),
}
TOP = {
    "pipeline", "folds", "requests", "running", "racing", "speeds", "status", "demonstration",
    "phantoms", "auxiliary", "classifying", "adopting", "pretrain", "importing", "exporting",
    "bundles", "choosing", "plan", "plan_edits", "planned", "starting", "preparing", "replanning",
}  # fmt: skip


def name_of(path: Path) -> str:
    """Return the part of the project a file belongs to: `io`, `records`, `planners`, …"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "planners" if parts[0] == "planners" else parts[1]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(source: str, target: str) -> bool:
    """Tell whether part `source` may import part `target`."""
    if source == target or source in ("cli", "__main__", "__init__"):
        return True
    if target in RECORDS:
        return source != "records" or target in {"records", "errors", "files"}
    if source in TOP:
        return target not in {"cli", "planners"}
    if source in STAGES:
        return target in TOOLKITS or (source, target) in STAGE_EDGES
    if source in TOOLKITS:
        return target in TOOLKITS
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path) -> None:
    source = name_of(path)
    targets = {
        module.split(".")[1]
        for module in imports(path)
        if module.startswith("selfseg.") and module.count(".") >= 1
    }
    wrong = sorted(target for target in targets if not allowed(source, target))
    assert not wrong, f"{source} must not import {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes_and_first_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first line says what the file is for"
    assert text.count("\n") <= 300
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 80
    ]
    assert not long


def test_most_functions_are_short() -> None:
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    )
    assert lengths[int(0.95 * len(lengths))] <= 40


def test_planners_know_records_only() -> None:
    for path in (ROOT / "planners").glob("*.py"):
        outside = {
            module
            for module in imports(path)
            if module.split(".")[0] in {"torch", "SimpleITK", "os", "pathlib", "pandas"}
        }
        assert not outside, f"{path.name} imports {outside}"


def test_packages_listed_in_pyproject_are_the_folders() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "selfseg").rglob("__init__.py")
    } | {"selfseg.planners"}
    assert listed == found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_can_run_code_from_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == PICKLE_READER:  # one call, with torch's restricted reader
        restricted = r"torch\.load\([^()]*weights_only=True[^()]*\)"
        text, count = re.subn(restricted, "", text)
        assert count == 1
    forbidden = re.compile(
        r"\b(import|from) pickle\b|torch\.(load|save)\(|allow_pickle\s*=\s*True|yaml\.load\(|"
        r"(?<![\w.])(eval|exec)\("
    )
    assert not forbidden.findall(text)


def test_help_needs_neither_torch_nor_images() -> None:
    code = (
        "import sys; import selfseg.cli.main; "
        "heavy = {'torch', 'SimpleITK', 'scipy', 'numpy', 'pandas', 'pydantic'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
