"""What `plan --explain` prints: the order on top, then decisions by configuration."""

from __future__ import annotations

import pytest
from plannerfacts import make_dataset, make_fingerprint

from selfseg import planning
from selfseg.cli.explain import print_decisions
from selfseg.plan_checks import check_plan
from selfseg.records.plan import Budget, Plan


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
    edited = planning.edit_plan(plan, ['proposed=["2d", "3d_fullres"]'])
    check_plan(edited)
    print_decisions(edited)
    out = capsys.readouterr().out
    assert out.index("1. 2d") < out.index("2. 3d_fullres") < out.index("│ 2.5d  ")
    assert "set by the user with --set" in out
