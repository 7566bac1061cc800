"""The course of a race, with simulated scores in place of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from racedata import CASES, IDEAS, NAMES, an_idea, scores_of, write_unraced

from selfseg.errors import PlanError, SelfSegError
from selfseg.execution.locks import held
from selfseg.inference.trained import Workspace
from selfseg.racing import combine, race
from selfseg.racing.arms import with_loss
from selfseg.racing.train import Track
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.ideas import Idea
from selfseg.records.loss import (
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    Loss,
    LossTerm,
    SignedDistanceTerm,
    TopKTerm,
)
from selfseg.records.metrics import CaseScores
from selfseg.records.plan import Plan
from selfseg.records.race import Arm, ArmResult, RaceLength, RaceRecord
from selfseg.requests import RaceRequest

Gains = Mapping[frozenset[str], float]


@pytest.fixture
def known(tmp_path: Path) -> Workspace:
    """Twenty cases in four folds, nothing trained, three ideas."""
    return write_unraced(tmp_path)


class Simulated:
    """In place of `train_arms`: every arm scores what its ideas gain; keeps what was trained."""

    def __init__(self, known: Workspace, gains: Gains) -> None:
        self.splits = serial.load(Splits, known.folder.splits)
        self.gains = gains
        self.trained: list[tuple[str, ...]] = []

    def __call__(
        self, track: Track, arms: Sequence[Arm], folds: Sequence[str], length: RaceLength
    ) -> list[ArmResult]:
        """Return scores (with a spread that is the same in all arms)."""
        self.trained += [arm.ideas for arm in arms]
        return [ArmResult(arm=arm.name, cases=self._cases(arm, folds)) for arm in arms]

    def _cases(self, arm: Arm, folds: Sequence[str]) -> tuple[CaseScores, ...]:
        gain = self.gains.get(frozenset(arm.ideas), 0.0)
        return scores_of(self.splits, folds, gain)


def start(
    known: Workspace, monkeypatch: pytest.MonkeyPatch, gains: Gains, **options: object
) -> tuple[race.RaceResult, Simulated]:
    """Race with simulated trainings."""
    simulated = Simulated(known, gains)
    monkeypatch.setattr(race, "train_arms", simulated)
    monkeypatch.setattr(combine, "train_arms", simulated)
    request = RaceRequest(**options)  # type: ignore[arg-type]
    return race.race_dataset("phantom", known.folder.path.parent, request), simulated


def gains_of(**gains: float) -> Gains:
    """Return gains by ideas: `focal_and_top_k=0.02`."""
    return {frozenset(names.split("_and_")): gain for names, gain in gains.items()}


def test_the_best_enters_and_others_are_tried_on_top_of_it(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
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


def nominate(known: Workspace, *ideas: Idea, terms: tuple[LossTerm, ...]) -> None:
    """Write a plan with another loss and other ideas."""
    plan = known.plan.model_copy(update={"nominated": ideas})
    serial.save(with_loss(plan, "3d_fullres", Loss(terms=terms)), known.folder.plan)


def test_ideas_that_cannot_be_trained_together_are_not_combined(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
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
    known: Workspace, monkeypatch: pytest.MonkeyPatch
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


def test_an_idea_that_cannot_be_trained_is_told_before_anything_is(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = an_idea("strange", TopKTerm(), replaces=("cross_entropy",))
    nominate(known, IDEAS[0], strange, terms=(DiceTerm(),))
    with pytest.raises(PlanError, match="strange replaces cross_entropy"):
        start(known, monkeypatch, {}, time_s=60.0)


def test_in_limited_time_only_the_next_is_tried(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize(("time_s", "mirrored"), [(300.0, False), (30_000.0, True)])
def test_prediction_is_timed_as_the_recipe_mirrors(
    known: Workspace, monkeypatch: pytest.MonkeyPatch, time_s: float, *, mirrored: bool
) -> None:
    """Sixteen trainings of 0.1 s a step: fewer than a thousand steps each, or more."""
    item = known.plan.configurations[0]
    short = item.optimization.recipe.model_copy(update={"mirror": False})
    changes = {"short_recipe": short, "short_below_steps": 1000}
    options = item.optimization.model_copy(update=changes)
    changed = item.model_copy(update={"optimization": options})
    plan = known.plan.model_copy(update={"configurations": (changed,)})
    serial.save(plan, known.folder.plan)
    timed = []

    def seconds(*_: object, mirrored: bool) -> float:
        timed.append(mirrored)
        return 0.1

    monkeypatch.setattr(race, "training_job", lambda *_: None)
    monkeypatch.setattr(race, "loss_step_seconds", lambda *_, limit_s: 0.1 + 0 * limit_s)
    monkeypatch.setattr(race, "case_seconds", seconds)
    start(known, monkeypatch, {}, time_s=time_s)
    assert timed == [mirrored]


def test_time_for_no_step_is_refused(known: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "training_job", lambda *_: None)
    monkeypatch.setattr(race, "loss_step_seconds", lambda *_, limit_s: 10.0 + 0 * limit_s)
    with pytest.raises(SelfSegError, match="no step fits") as caught:
        start(known, monkeypatch, {}, time_s=300.0)
    assert "--ideas" in caught.value.remedy


def test_a_second_race_begins_only_if_asked(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = start(known, monkeypatch, gains_of(top_k=-0.02))
    assert result.record is not None
    assert result.record.accepted == ()
    plan = serial.load(Plan, known.folder.plan)
    again, simulated = start(known, monkeypatch, {})
    assert again.record is None
    assert "top_k (rejected)" in again.note
    assert simulated.trained == []
    # asked for with the same options it would give the same: nothing is trained or written twice
    asked, simulated = start(known, monkeypatch, {}, ideas=tuple(idea.name for idea in IDEAS))
    assert asked.record == result.record
    assert simulated.trained == []
    assert serial.load(Plan, known.folder.plan) == plan
    _, simulated = start(known, monkeypatch, {}, ideas=("top_k",), seed=1)
    assert simulated.trained == [(), ("top_k",)]


def test_a_race_that_ended_before_the_plan_was_written(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = serial.load(Plan, known.folder.plan)
    result, _ = start(known, monkeypatch, gains_of(top_k=0.02))
    after = serial.load(Plan, known.folder.plan)
    serial.save(before, known.folder.plan)
    again, simulated = start(known, monkeypatch, {})
    assert simulated.trained == []
    assert again.record == result.record
    assert serial.load(Plan, known.folder.plan) == after


def test_one_held_out_patient_is_refused(known: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = serial.load(Splits, known.folder.splits)
    one = splits.folds[0].model_copy(update={"validation": ("case_0",)})
    serial.save(Splits(folds=(one,)), known.folder.splits)
    with pytest.raises(SelfSegError, match="holds out 1 case of 1 patients"):
        start(known, monkeypatch, {})


def test_folds_are_chosen_and_strange_ones_refused(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = start(known, monkeypatch, gains_of(top_k=0.02), folds=("1", "3"))
    assert result.record is not None
    assert {case.fold for case in result.record.cases} == {"1", "3"}
    assert len(result.record.cases) == CASES / 2
    for fold in ("7", "all"):
        with pytest.raises(SelfSegError, match=f"{fold} of .* does not exist"):
            start(known, monkeypatch, {}, ideas=("focal",), folds=(fold,))


def test_a_stage_that_was_trained_again_makes_another_race(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = known.plan.configurations[0].model_copy(update={"name": "3d_lowres"})
    cascade = known.plan.configurations[0].model_copy(update={"previous_stage": "3d_lowres"})
    plan = known.plan.model_copy(
        update={"configurations": (stage, cascade), "proposed": ("3d_lowres", "3d_fullres")}
    )
    serial.save(plan, known.folder.plan)
    weights = known.folder.fold("3d_lowres", "0").weights
    weights.parent.mkdir(parents=True)
    names = tuple(idea.name for idea in IDEAS)
    for text, trained in ((b"once", True), (b"once", False), (b"again", True)):
        weights.write_bytes(text)
        _, simulated = start(known, monkeypatch, {}, configuration="3d_fullres", ideas=names)
        assert bool(simulated.trained) is trained


def test_one_race_at_a_time(known: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = start(known, monkeypatch, {})
    assert result.folder is not None
    names = tuple(idea.name for idea in IDEAS)
    with held(result.folder.lock, "busy"), pytest.raises(SelfSegError, match="is being raced"):
        start(known, monkeypatch, {}, ideas=names)


def test_a_damaged_record_begins_anew(known: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = serial.load(Plan, known.folder.plan)
    result, _ = start(known, monkeypatch, {})
    assert result.folder is not None
    result.folder.record.write_text("{")
    serial.save(plan, known.folder.plan)
    again, simulated = start(known, monkeypatch, {})
    assert simulated.trained
    assert again.record == result.record
    assert serial.load(RaceRecord, result.folder.record) == result.record
