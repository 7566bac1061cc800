"""The course of a race, with simulated scores in place of trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from racedata import CASES, IDEAS, an_idea, write_unraced
from raceruns import gains_of, nominate, start

from selfseg.errors import PlanError, SelfSegError
from selfseg.execution.locks import held
from selfseg.inference.trained import PlannedDataset
from selfseg.racing import race
from selfseg.racing.rules import find_racer
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Splits
from selfseg.records.loss_terms import DiceTerm, TopKTerm
from selfseg.records.plan import Plan
from selfseg.records.race import RaceMetric, RaceRecord
from selfseg.requests import RaceRequest


@pytest.fixture
def known(tmp_path: Path) -> PlannedDataset:
    """Twenty cases in four folds, nothing trained, three ideas."""
    return write_unraced(tmp_path)


def test_another_second_data_set_is_another_race(known: PlannedDataset) -> None:
    """Else the results of a race with one would stand for those with another."""
    (item, *_) = known.plan.configurations
    serial.save(known.dataset, known.folder.auxiliary)
    plans = [
        known.plan.model_copy(update={"auxiliary": auxiliary})
        for auxiliary in (None, Auxiliary(name="x"), Auxiliary(name="x", share=0.2))
    ]

    def key(plan: Plan) -> str:
        planned = PlannedDataset(known.folder, plan, known.dataset)
        basis = race._basis(planned, item, (), RaceRequest())
        return serial.digest(basis)

    keys = {key(plan) for plan in plans}
    fewer = known.dataset.model_copy(update={"cases": known.dataset.cases[1:]})
    serial.save(fewer, known.folder.auxiliary)
    keys.add(key(plans[1]))
    assert len(keys) == 4


def test_an_idea_that_cannot_be_trained_is_told_before_anything_is(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = an_idea("strange", TopKTerm(), replaces=("cross_entropy",))
    nominate(known, IDEAS[0], strange, terms=(DiceTerm(),))
    with pytest.raises(PlanError, match="strange replaces cross_entropy"):
        start(known, monkeypatch, {}, time_s=60.0)


@pytest.mark.parametrize(("time_s", "mirrored"), [(300.0, False), (30_000.0, True)])
def test_prediction_is_timed_as_the_recipe_mirrors(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, time_s: float, *, mirrored: bool
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


def test_the_whole_length_is_told_before_anything_is_trained(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four arms on four folds, and no time limit."""
    with caplog.at_level("INFO"):
        start(known, monkeypatch, {})
    assert "62500 steps each" in caplog.text
    assert "16 trainings, 1,000,000 steps in all; for ideas together up to 8 more" in caplog.text


def test_time_for_no_step_is_refused(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "training_job", lambda *_: None)
    monkeypatch.setattr(race, "loss_step_seconds", lambda *_, limit_s: 10.0 + 0 * limit_s)
    with pytest.raises(SelfSegError, match="no step fits") as caught:
        start(known, monkeypatch, {}, time_s=300.0)
    assert "--ideas" in caught.value.remedy


def test_a_second_race_begins_only_if_asked(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
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
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = serial.load(Plan, known.folder.plan)
    result, _ = start(known, monkeypatch, gains_of(top_k=0.02))
    after = serial.load(Plan, known.folder.plan)
    serial.save(before, known.folder.plan)
    again, simulated = start(known, monkeypatch, {})
    assert simulated.trained == []
    assert again.record == result.record
    assert serial.load(Plan, known.folder.plan) == after


@pytest.mark.parametrize("metric", ["cldice", "betti0", "nsd"])
def test_topology_is_scored_where_an_idea_is_judged_by_it(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, metric: RaceMetric
) -> None:
    monkeypatch.setattr(type(find_racer()), "race_metrics", lambda *_: ("dice", metric))
    _, simulated = start(known, monkeypatch, {})
    assert simulated.topology is (metric != "nsd")


def test_one_held_out_patient_is_refused(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = serial.load(Splits, known.folder.splits)
    one = splits.folds[0].model_copy(update={"validation": ("case_0",)})
    serial.save(Splits(folds=(one,)), known.folder.splits)
    with pytest.raises(SelfSegError, match="holds out 1 case of 1 patient: "):
        start(known, monkeypatch, {})


def test_folds_are_chosen_and_strange_ones_refused(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = start(known, monkeypatch, gains_of(top_k=0.02), folds=("1", "3"))
    assert result.record is not None
    assert {case.fold for case in result.record.cases} == {"1", "3"}
    assert len(result.record.cases) == CASES / 2
    for fold in ("7", "all"):
        with pytest.raises(SelfSegError, match=f"{fold} of .* does not exist"):
            start(known, monkeypatch, {}, ideas=("focal",), folds=(fold,))


def test_a_stage_that_was_trained_again_makes_another_race(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
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


def test_one_race_at_a_time(known: PlannedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = start(known, monkeypatch, {})
    assert result.folder is not None
    names = tuple(idea.name for idea in IDEAS)
    with held(result.folder.lock, "busy"), pytest.raises(SelfSegError, match="is being raced"):
        start(known, monkeypatch, {}, ideas=names)


def test_a_damaged_record_begins_anew(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = serial.load(Plan, known.folder.plan)
    result, _ = start(known, monkeypatch, {})
    assert result.folder is not None
    result.folder.record.write_text("{")
    serial.save(plan, known.folder.plan)
    again, simulated = start(known, monkeypatch, {})
    assert simulated.trained
    assert again.record == result.record
    assert serial.load(RaceRecord, result.folder.record) == result.record
