"""What docs/planner-examples.md shows is what the planner decides today."""

from __future__ import annotations

from pathlib import Path

import pytest
from realdata import PROJECT, data_root

from selfseg.cli.explain import print_decisions
from selfseg.cli.tables import print_plan
from selfseg.phantoms.slices import write_slices_dataset
from selfseg.pipeline import PlanResult, plan_dataset
from selfseg.requests import PlanRequest

PAGE = PROJECT / "docs" / "planner-examples.md"
PROPOSED = {
    "hippocampus": ("3d_fullres", "2d"),
    "nodules": ("3d_fullres", "2.5d"),
    "vessels": ("2d",),
    "ms_lesions": ("3d_fullres", "2d"),
    "sarcoma": ("3d_fullres", "2d"),
    "cine": ("2d",),
    "nuclei": ("2d",),
}
LISTED = {"hippocampus": "train40.txt"}
# Tables of decisions that do not depend on the memory of the machine.
DECISIONS = ("What all configurations share", "Nominated: 'selfseg race' tries these")


def plan_of(root: Path, workspace: Path, cases: Path | None = None) -> PlanResult:
    request = PlanRequest(device="cpu", workers=1, preprocess=False, cases=cases)
    return plan_dataset(str(root), workspace, request)


def check_page(
    name: str, made: PlanResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """See that the page has the tables of configurations and sizes as they are printed now."""
    monkeypatch.setenv("COLUMNS", "110")
    capsys.readouterr()
    print_decisions(made.plan)
    print_plan(made)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    end = next(n for n, line in enumerate(printed) if "What all configurations share" in line)
    sizes = next(n for n, line in enumerate(printed) if f"Plan for {name}: " in line)
    written = next(n for n, line in enumerate(printed) if line.startswith("Written to"))
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert "\n".join(printed[:end]).rstrip() in section
    assert "\n".join(printed[sizes:written]) in section


def test_slices_that_need_their_neighbors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "slices"
    write_slices_dataset(root, name="slices", train=30, test=0, seed=0)
    made = plan_of(root, tmp_path / "workspace")
    assert made.plan.proposed == ("2.5d", "3d_fullres")
    check_page("slices", made, capsys, monkeypatch)


@pytest.mark.parametrize("name", list(PROPOSED))
def test_real_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_root(name)
    cases = root / LISTED[name] if name in LISTED else None
    made = plan_of(root, tmp_path, cases)
    assert made.plan.proposed == PROPOSED[name]
    check_page(name, made, capsys, monkeypatch)


def test_all_decisions_on_hippocampus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_root("hippocampus")
    made = plan_of(root, tmp_path, root / LISTED["hippocampus"])
    monkeypatch.setenv("COLUMNS", "110")
    capsys.readouterr()
    print_decisions(made.plan)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    section = PAGE.read_text(encoding="utf-8").split("\n## All decisions on one data set\n")[1]
    for title in DECISIONS:
        first = next(n for n, line in enumerate(printed) if line.strip() == title)
        last = next(n for n in range(first, len(printed)) if printed[n].startswith("└"))
        assert "\n".join(printed[first : last + 1]) in section
