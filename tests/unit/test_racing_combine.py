"""Which ideas that won alone are tried on top of each other, and which are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from racedata import IDEAS, NAMES, an_idea, write_unraced
from raceruns import gains_of, nominate, start

from selfseg.inference.trained import PlannedDataset
from selfseg.racing import race
from selfseg.records import serial
from selfseg.records.loss_terms import (
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    SignedDistanceTerm,
    TopKTerm,
)
from selfseg.records.plan import Plan


@pytest.fixture
def known(tmp_path: Path) -> PlannedDataset:
    """Twenty cases in four folds, nothing trained, three ideas."""
    return write_unraced(tmp_path)


def test_the_best_enters_and_others_are_tried_on_top_of_it(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = gains_of(
        top_k=0.02, focal=0.04, tversky=0.03, focal_and_tversky=0.03, focal_and_top_k=0.05
    )
    result, simulated = start(known, monkeypatch, gains)
    assert result.record is not None
    # without a time limit all that won are tried
    single: list[tuple[str, ...]] = [(), ("top_k",), ("focal",), ("tversky",)]
    assert simulated.trained == [*single, ("focal", "tversky"), ("focal", "top_k")]
    assert result.record.accepted == ("focal", "top_k")
    plan = serial.load(Plan, known.folder.plan)
    kinds = [term.kind for term in plan.configurations[0].loss.terms]
    assert kinds == ["dice", "focal", "top_k"]
    trials = {idea.name: idea.trials for idea in plan.nominated}
    assert [trial.accepted for trial in trials["tversky"]] == [True, False]
    assert trials["tversky"][1].on_top_of == ("focal",)
    assert [trial.accepted for trial in trials["top_k"]] == [True, True]
    assert trials["top_k"][1].gains[0].gain.value == pytest.approx(0.01, rel=0.02)
    assert (known.folder.path / "plan.former-1.json").is_file()


def test_ideas_that_cannot_be_trained_together_are_not_combined(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heads for distances: the plan of the pair cannot be executed."""
    heads = [an_idea(name, SignedDistanceTerm(labels=(name,))) for name in NAMES]
    nominate(known, *heads, IDEAS[0], terms=(DiceTerm(),))
    gains = gains_of(core=0.04, rim=0.03, top_k=0.02, core_and_top_k=0.06)
    result, simulated = start(known, monkeypatch, gains)
    assert result.record is not None
    assert simulated.trained[4:] == [("core", "top_k")]
    assert result.record.accepted == ("core", "top_k")
    rim = serial.load(Plan, known.folder.plan).nominated[1]
    assert [trial.accepted for trial in rim.trials] == [True, False]
    assert "cannot be combined" in rim.trials[1].because
    assert "signed_distance stands there twice" in rim.trials[1].because


def test_an_idea_that_replaces_what_is_gone_is_not_combined(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ideas = (
        an_idea("top_k", TopKTerm(), replaces=("cross_entropy",)),
        an_idea("focal", FocalTerm(), replaces=("cross_entropy",)),
    )
    nominate(known, *ideas, terms=(DiceTerm(), CrossEntropyTerm()))
    result, simulated = start(known, monkeypatch, gains_of(top_k=0.02, focal=0.04))
    assert simulated.trained == [(), ("top_k",), ("focal",)]
    assert result.record is not None
    assert result.record.accepted == ("focal",)
    plan = serial.load(Plan, known.folder.plan)
    assert plan.configurations[0].loss.terms == (DiceTerm(), FocalTerm())
    last = plan.nominated[0].trials[-1]
    assert (last.accepted, last.on_top_of) == (False, ("focal",))
    assert "top_k replaces cross_entropy, which the loss does not have" in last.because


def test_in_limited_time_only_the_next_is_tried(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "training_job", lambda *_: None)
    monkeypatch.setattr(race, "loss_step_seconds", lambda *_, limit_s: 0.1 + 0 * limit_s)
    gains = gains_of(top_k=0.02, focal=0.04, tversky=0.03, focal_and_tversky=0.06)
    result, simulated = start(known, monkeypatch, gains, time_s=3600.0)
    assert result.record is not None
    assert simulated.trained[4:] == [("focal", "tversky")]
    assert result.record.accepted == ("focal", "tversky")
    top_k = serial.load(Plan, known.folder.plan).nominated[0]
    assert [trial.accepted for trial in top_k.trials] == [True, False]
    assert "no time was kept" in top_k.trials[-1].because
    assert (top_k.trials[-1].gains, top_k.trials[-1].steps) == ((), 0)  # nothing was measured
    assert result.record.trials[-1].gains == ()
    assert "arms" in result.record.length.decision.because
