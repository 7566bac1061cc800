"""What `plan --explain` prints: the order on top, then decisions by configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from plannerfacts import make_dataset, make_fingerprint

from selfseg import planning
from selfseg.cli.explain import print_decisions
from selfseg.cli.tables import print_plan
from selfseg.plan_checks import check_plan
from selfseg.plan_edits import edit_plan
from selfseg.planned import PlanResult
from selfseg.records.dataset import Splits
from selfseg.records.plan import Budget, Plan
from selfseg.workspace.dataset import DatasetFolder


@pytest.fixture(scope="module")
def plan() -> Plan:
    facts = make_fingerprint([((5.0, 0.8, 0.8), (20, 96, 96))] * 30)
    return planning.make_plan(make_dataset(30), facts, Budget(memory_gib=8.0, device="cpu"))


@pytest.fixture
def printed(plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "2000")
    print_decisions(plan)
    return capsys.readouterr().out


def test_proposed_configurations_come_first_in_their_order(plan: Plan, printed: str) -> None:
    top = printed[: printed.index("What all configurations share")]
    places = [top.index(f" {text} ") for text in ("1. 2.5d", "2. 3d_fullres", "2d", "3d_lowres")]
    assert places == sorted(places)
    assert "3. " not in top
    for decision in plan.decisions:
        if decision.rule == "configurations":
            assert decision.because in top


def test_every_reason_is_there_and_shared_ones_once(plan: Plan, printed: str) -> None:
    for decision in plan.decisions:
        assert decision.because in printed
        assert decision.value in printed
    (reason,) = {d.because for d in plan.decisions if d.rule == "optimization"}
    assert printed.count(reason) == 1
    assert printed.count("configurations.") == 0


def test_an_edited_order_is_the_one_shown(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    edited = edit_plan(plan, ['proposed=["2d", "3d_fullres"]'])
    check_plan(edited)
    print_decisions(edited)
    out = capsys.readouterr().out
    assert out.index("1. 2d") < out.index("2. 3d_fullres") < out.index("│ 2.5d  ")
    assert "set by the user with --set" in out


def test_the_next_command_can_be_pasted_whatever_the_names(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    result = PlanResult(
        folder=DatasetFolder(Path("/my work/left lung")),
        dataset=make_dataset(3),
        fingerprint=make_fingerprint([((5.0, 0.8, 0.8), (20, 96, 96))] * 3),
        plan=plan.model_copy(update={"dataset": "left lung"}),
        splits=Splits(folds=()),
    )
    print_plan(result)
    next_command = "Next: selfseg train 'left lung' 2.5d 0 --workspace '/my work'\n"
    assert next_command in capsys.readouterr().out
