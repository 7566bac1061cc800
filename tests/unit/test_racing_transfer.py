"""Races of a start or a second data set against training without: control, verdict, and `train`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from racedata import BORROW, MODEL, TRANSFER, a_plan, a_trial, an_idea, write_unraced
from raceruns import Simulated, gains_of, start
from tinymodel import save_model, tiny_configuration, tiny_plan

from selfseg.errors import ModelError, PlanError
from selfseg.folds import find_configuration, open_planned
from selfseg.inference.trained import PlannedDataset
from selfseg.networks.weights import load_weights, save_weights
from selfseg.plan_checks import check_plan
from selfseg.racing.arms import arm_plan, entrants, without_ideas
from selfseg.racing.race import RaceResult
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.ideas import Idea
from selfseg.records.loss_terms import TopKTerm
from selfseg.records.plan import Configuration, Plan
from selfseg.records.transfer import Start
from selfseg.requests import StartRequest
from selfseg.starting import start_of_fold, tell_of_random_weights

TOP_K = an_idea("top_k", TopKTerm())
HIDE = Idea(name="hidden_parts", configuration="3d_fullres", hidden_p=0.7, because="veils")


@pytest.fixture
def known(tmp_path: Path) -> PlannedDataset:
    """Twenty cases in four folds, nothing trained; beside it a model of another data set."""
    save_model(tmp_path / "other", tiny_plan(dataset="other"))
    return write_unraced(tmp_path)


def planned(known: PlannedDataset, *ideas: Idea, **changes: object) -> None:
    """Write a plan with these ideas, and changes of its configuration."""
    item = known.plan.configurations[0].model_copy(update=changes)
    plan = known.plan.with_configuration(item).model_copy(update={"nominated": ideas})
    serial.save(plan, known.folder.plan)


def planned_with_second_data(known: PlannedDataset, *ideas: Idea) -> None:
    """Write a plan with these ideas, and a second data set `more`: the cases once again."""
    planned(known, *ideas)
    serial.save(known.dataset, known.folder.auxiliary)
    plan = now(known)[0].model_copy(update={"auxiliary": Auxiliary(name="more")})
    serial.save(plan, known.folder.plan)


def now(known: PlannedDataset) -> tuple[Plan, Configuration]:
    """Return plan and configuration as they stand in the workspace."""
    plan = serial.load(Plan, known.folder.plan)
    return plan, find_configuration(plan, "3d_fullres")


def raced(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, **gains: float
) -> tuple[RaceResult, Simulated]:
    return start(known, monkeypatch, gains_of(**gains))


def trained_from(known: PlannedDataset, asked: StartRequest | None = None) -> str | None:
    """Return the data set of the model that `train` would start from."""
    there = open_planned(known.folder)
    item = find_configuration(there.plan, "3d_fullres")
    tell_of_random_weights(there.plan, item.name, "0")
    source = start_of_fold(there, item, "0", ("case_0",), asked)
    return None if source is None else source.model.dataset


def test_the_plain_arm_is_trained_without_what_the_idea_brings(known: PlannedDataset) -> None:
    plan = a_plan(TRANSFER, BORROW, TOP_K).model_copy(update={"auxiliary": Auxiliary(name="more")})
    ideas = plan.nominated
    used = plan.configurations[0].model_copy(update={"start": MODEL})
    plan = plan.with_configuration(without_ideas(used, ideas))
    arms = [arm_plan(plan, "3d_fullres", found) for found in ([], *([i] for i in ideas))]
    parts = [(arm.configurations[0].start, arm.configurations[0].borrows) for arm in arms]
    assert parts == [(None, False), (MODEL, False), (None, True), (None, False)]
    assert [arm.borrowed(arm.configurations[0]) is not None for arm in arms] == [
        False, False, True, False,
    ]  # fmt: skip
    both = arm_plan(plan, "3d_fullres", [TRANSFER, TOP_K]).configurations[0]
    assert (both.start, both.loss.terms[-1]) == (MODEL, TopKTerm())
    # another start, which is not raced, is part of the plain arm
    other = used.model_copy(update={"start": Start(folder="elsewhere")})
    assert without_ideas(other, ideas).start == Start(folder="elsewhere")


def test_a_start_that_does_harm_is_told_and_no_longer_used(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planned(known, TRANSFER, start=MODEL)
    assert trained_from(known) == "other"
    result, simulated = raced(known, monkeypatch, transfer=-0.02)
    assert simulated.trained == [(), ("transfer",)]
    assert result.record is not None
    assert result.record.basis.configuration.start is None
    plan, item = now(known)
    assert item.start is None
    (trial,) = plan.nominated[0].trials
    assert not trial.accepted
    assert "negative transfer: the interval lies below zero" in trial.because
    told = {decision.subject: decision for decision in plan.decisions}
    decision = told["configurations.3d_fullres.start"]
    assert (decision.rule, decision.value) == ("race.start", "random weights")
    assert "transfer was rejected (mean gain of dice and nsd -0.0201" in decision.because
    assert decision.alternatives == ("other 3d_fullres",)
    with caplog.at_level(logging.INFO):
        assert trained_from(known) is None
    assert "starts from random weights: a race rejected transfer (mean gain" in caplog.text
    assert "-0.0201" in caplog.text


def test_a_start_that_wins_is_used_by_train_without_options(
    known: PlannedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    planned(known, TRANSFER)
    assert trained_from(known) is None
    assert "no race has tried transfer yet" in caplog.text
    raced(known, monkeypatch, transfer=0.02)
    plan, item = now(known)
    assert item.start == MODEL
    assert plan.nominated[0].trials[0].accepted
    assert plan.decisions[-1].value == "other 3d_fullres"
    assert trained_from(known) == "other"
    # what is given by hand goes before
    save_model(tmp_path / "third", tiny_plan(dataset="third"))
    assert trained_from(known, StartRequest(tmp_path / "third")) == "third"


@pytest.mark.parametrize("idea", [TRANSFER, BORROW], ids=lambda idea: idea.name)
def test_an_accepted_start_or_data_set_is_told_again_at_no_cost(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, idea: Idea
) -> None:
    """With the same options; with others it has to win again against an arm without it."""
    planned_with_second_data(known, idea)
    first, _ = raced(known, monkeypatch, **{idea.name: 0.02})
    plan, item = now(known)
    assert first.record is not None
    assert first.record.accepted == (idea.name,)
    again, simulated = start(known, monkeypatch, {}, ideas=(idea.name,))
    assert simulated.trained == []
    assert again.record == first.record
    assert now(known)[0] == plan
    _, simulated = start(known, monkeypatch, {}, ideas=(idea.name,), seed=1)
    assert simulated.trained == [(), (idea.name,)]
    assert now(known)[1] == without_ideas(item, [idea])


def test_an_idea_that_was_not_nominated_says_what_would_have_nominated_it() -> None:
    plan = a_plan(TOP_K)
    with pytest.raises(PlanError, match="no idea 'pretrained' of 3d_fullres") as caught:
        entrants(plan, plan.configurations[0], ["pretrained"], 4)
    assert "There is: top_k; 'selfseg pretrain' nominates pretrained, unless" in caught.value.remedy
    with pytest.raises(PlanError) as caught:
        entrants(plan, plan.configurations[0], ["focal"], 4)
    assert caught.value.remedy == "There is: top_k."


def test_what_changes_nothing_is_no_harm(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(known, TRANSFER, start=MODEL)
    raced(known, monkeypatch)
    plan, item = now(known)
    assert item.start is None
    assert "negative transfer" not in plan.nominated[0].trials[0].because


def test_the_same_race_costs_nothing_after_its_verdict(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the plan has lost the start that it had."""
    planned(known, TRANSFER, start=MODEL)
    first, _ = raced(known, monkeypatch, transfer=-0.02)
    plan, _ = now(known)
    again, simulated = start(known, monkeypatch, {}, ideas=("transfer",))
    assert simulated.trained == []
    assert again.record == first.record
    assert now(known)[0] == plan


def test_other_weights_of_the_model_are_another_race(
    known: PlannedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(known, TRANSFER)
    raced(known, monkeypatch, transfer=-0.02)
    path = tmp_path / "other" / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    save_weights({name: value + 1 for name, value in load_weights(path).items()}, path)
    _, simulated = start(known, monkeypatch, gains_of(transfer=0.02), ideas=("transfer",))
    assert simulated.trained
    plan, item = now(known)
    assert [trial.accepted for trial in plan.nominated[0].trials] == [False, True]
    assert item.start == MODEL


def test_a_model_that_has_seen_held_out_cases_ends_the_race_before_it_begins(
    known: PlannedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(known, TRANSFER)
    folder = save_model(tmp_path / "other", tiny_plan(dataset="phantom"))
    description = folder.fold("3d_fullres", "0").description
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"train_cases": ["case_7"]}))
    with pytest.raises(ModelError, match="trained on cases that this fold holds out: case_7") as e:
        raced(known, monkeypatch)
    assert "'nominated'" in e.value.remedy
    assert not (known.folder.path / "race").exists()


def test_a_model_of_another_network_ends_the_race_before_it_begins(
    known: PlannedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tiny_configuration()
    wide = wide.model_copy(
        update={"network": wide.network.model_copy(update={"features": (6, 12)})}
    )
    save_model(tmp_path / "other", tiny_plan(wide, dataset="other"))
    planned(known, TRANSFER)
    with pytest.raises(ModelError, match="widths 6, 12, not 4, 8"):
        raced(known, monkeypatch)
    assert not (known.folder.path / "race").exists()


def test_a_start_and_a_term_are_combined_and_two_starts_are_not(
    known: PlannedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "third", tiny_plan(dataset="third"))
    third = TRANSFER.model_copy(update={"name": "third", "start": Start(folder="third")})
    planned(known, TRANSFER, third, TOP_K)
    result, simulated = raced(
        known, monkeypatch, transfer=0.03, third=0.02, top_k=0.01, transfer_and_top_k=0.05
    )
    assert simulated.trained[-1] == ("transfer", "top_k")
    assert result.record is not None
    assert result.record.accepted == ("transfer", "top_k")
    plan, item = now(known)
    assert (item.start, item.loss.terms[-1]) == (MODEL, TopKTerm())
    found = {idea.name: idea.trials[-1] for idea in plan.nominated}
    assert "third starts from one model, transfer from another" in found["third"].because
    told = {decision.rule: decision.value for decision in plan.decisions}
    assert told["race.start"] == "other 3d_fullres"
    assert told["race.loss"].endswith("1 top_k")
    # later, what was not taken may race against what was
    assert entrants(plan, item, ["third"], 4)[0].start == Start(folder="third")


@pytest.mark.parametrize("gain", [0.02, -0.02])
def test_a_second_data_set_stays_only_if_it_wins(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    planned_with_second_data(known, BORROW)
    result, _ = raced(known, monkeypatch, auxiliary=gain)
    assert result.record is not None
    basis = result.record.basis
    assert (basis.configuration.borrows, basis.auxiliary) == (False, Auxiliary(name="more"))
    plan, item = now(known)
    assert item.borrows is (gain > 0)
    assert (plan.borrowed(item) is not None) is (gain > 0)
    assert ("negative transfer" in plan.nominated[0].trials[0].because) is (gain < 0)
    assert plan.decisions[-1].rule == "race.borrows"


def test_hidden_parts_join_the_plan_only_if_they_win(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(known, HIDE, TOP_K)
    assert arm_plan(now(known)[0], "3d_fullres", [HIDE]).configurations[0].augmentation == (
        now(known)[1].augmentation.model_copy(update={"hidden_p": 0.7})
    )
    raced(known, monkeypatch, hidden_parts=0.02, top_k=-0.01)
    plan, item = now(known)
    assert (item.augmentation.hidden_p, item.loss) == (0.7, known.plan.configurations[0].loss)
    (decision,) = (found for found in plan.decisions if found.rule == "race.hidden_p")
    assert (decision.value, decision.alternatives) == ("0.7", ("0.0",))
    assert decision.subject == "configurations.3d_fullres.augmentation.hidden_p"


def test_an_idea_to_borrow_needs_a_data_set() -> None:
    with pytest.raises(PlanError, match=r"nominated\.auxiliary\.borrows: no data set"):
        check_plan(a_plan(BORROW))
    plan = a_plan(BORROW).model_copy(update={"auxiliary": Auxiliary(name="more")})
    check_plan(plan)
    second = plan.configurations[0].model_copy(update={"previous_stage": "3d_lowres"})
    with pytest.raises(PlanError, match="3d_fullres has a previous stage, and cannot borrow"):
        check_plan(plan.with_configuration(second))


def test_a_model_that_is_gone_is_told_with_the_place_in_the_plan(known: PlannedDataset) -> None:
    planned(known, start=Start(folder="gone"))
    with pytest.raises(ModelError, match=r"the start of 3d_fullres in plan\.json: ") as e:
        trained_from(known)
    assert "--init:" not in e.value.message
    assert "configurations.3d_fullres.start is what trainings start from" in e.value.remedy


def test_plans_and_races_from_before_stay_what_they_were() -> None:
    """Files without the new keys are read; digests, which name races and checkpoints, are alike."""
    tried = TOP_K.model_copy(update={"trials": (a_trial(),)})
    plan = a_plan(tried)
    content = json.loads(serial.text(plan))
    del content["init"]
    for record, keys in (
        (content["nominated"][0], ("start", "borrows", "hidden_p")),
        (content["configurations"][0], ("start", "borrows")),
        (
            content["configurations"][0]["augmentation"],
            ("hidden_p", "hidden_width", "hidden_spread"),
        ),
    ):
        for key in keys:
            del record[key]
    assert serial.decode(Plan, json.dumps(content), source="plan.json") == plan
    for record in (tried, plan.configurations[0]):
        written = record.model_dump_json(context=serial.FOR_DIGEST)
        assert not {"start", "borrows", "hidden_p"} & set(json.loads(written))
    assert serial.digest(TRANSFER) != serial.digest(TRANSFER.model_copy(update={"start": None}))
