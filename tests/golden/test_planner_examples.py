"""What docs/planner-examples.md shows is what the planner decides today."""

from __future__ import annotations

from pathlib import Path

import pytest
from realdata import PROJECT, data_root

from selfseg.cli.explain import print_decisions
from selfseg.phantoms.slices import write_slices_dataset
from selfseg.pipeline import plan_dataset
from selfseg.records.plan import Plan
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


def plan_of(root: Path, workspace: Path, cases: Path | None = None) -> Plan:
    request = PlanRequest(device="cpu", workers=1, preprocess=False, cases=cases)
    return plan_dataset(str(root), workspace, request).plan


def check_page(
    name: str, plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """See that the page has the table of configurations as it is printed now."""
    monkeypatch.setenv("COLUMNS", "110")
    capsys.readouterr()
    print_decisions(plan)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    end = next(n for n, line in enumerate(printed) if "What all configurations share" in line)
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert "\n".join(printed[:end]).rstrip() in section
    assert f"Worth training, in this order: {', '.join(plan.proposed)}\n" in section


def test_slices_that_need_their_neighbors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "slices"
    write_slices_dataset(root, name="slices", train=30, test=0, seed=0)
    plan = plan_of(root, tmp_path / "workspace")
    assert plan.proposed == ("3d_fullres", "2.5d")
    check_page("slices", plan, capsys, monkeypatch)


@pytest.mark.parametrize("name", list(PROPOSED))
def test_real_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_root(name)
    cases = root / LISTED[name] if name in LISTED else None
    plan = plan_of(root, tmp_path, cases)
    assert plan.proposed == PROPOSED[name]
    check_page(name, plan, capsys, monkeypatch)
