"""Which ideas are raced, what they do to a loss, and how the plan changes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from racedata import a_plan, a_record, a_trial, an_idea, with_loss
from tinymodel import tiny_configuration

from selfseg.errors import PlanError, RecordError
from selfseg.execution.locks import waited_for
from selfseg.inference.trained import weights_digest
from selfseg.plan_checks import check_plan
from selfseg.racing.arms import apply_ideas, arm_plan, describe_rest, entrants
from selfseg.racing.outcome import with_outcome, write_outcome
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import (
    BinaryCrossEntropyTerm,
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    ShapeCodeTerm,
    TopKTerm,
    TverskyTerm,
)
from selfseg.records.plan import Decision, Plan
from selfseg.records.race import RaceRecord, RaceTrial
from selfseg.records.shape_model import ShapeOptions
from selfseg.workspace.dataset import DatasetFolder

CONFIGURATION = tiny_configuration()
PLAIN = Loss(terms=(DiceTerm(), CrossEntropyTerm()), deep_supervision_decay=0.25)
TOP_K = an_idea("top_k", TopKTerm(), replaces=("cross_entropy",))
FOCAL = an_idea("focal", FocalTerm(weight=0.5), replaces=("cross_entropy",))


def test_terms_join_and_those_replaced_leave() -> None:
    item = CONFIGURATION.model_copy(update={"loss": PLAIN})
    changed = apply_ideas(item, [TOP_K]).loss
    assert changed.terms == (DiceTerm(), TopKTerm())
    assert changed.deep_supervision_decay == 0.25
    both = apply_ideas(item, [TOP_K, FOCAL]).loss
    assert both.terms == (DiceTerm(), TopKTerm(), FocalTerm(weight=0.5))
    assert apply_ideas(item, []) == item


def test_an_arm_makes_only_the_shape_models_that_its_loss_needs() -> None:
    shape = an_idea("shape", ShapeCodeTerm(labels=("core",)))
    plan = with_loss(a_plan(TOP_K, shape), "3d_fullres", PLAIN)
    plan = plan.model_copy(update={"shapes": ShapeOptions(labels=("rim",), grid=16)})
    for ideas, wanted in (([], ()), ([TOP_K], ()), ([shape], ("core",))):
        made = arm_plan(plan, "3d_fullres", ideas)
        assert made.shape_labels(made.configurations[0]) == wanted
        assert made.shapes.grid == 16


def test_weights_of_the_plain_loss_stay_usable() -> None:
    plan = a_plan(TOP_K)
    changed = with_loss(plan, "3d_fullres", Loss(terms=(DiceTerm(), TopKTerm())))
    assert changed.configurations != plan.configurations
    digests = {weights_digest(each, each.configurations[0]) for each in (plan, changed)}
    assert len(digests) == 1


def test_the_plan_of_an_arm_has_its_loss_and_no_ideas() -> None:
    plan = with_loss(a_plan(TOP_K, FOCAL), "3d_fullres", PLAIN)
    made = arm_plan(plan, "3d_fullres", [FOCAL])
    assert made.configurations[0].loss.terms == (DiceTerm(), FocalTerm(weight=0.5))
    assert made.nominated == ()
    assert arm_plan(plan, "3d_fullres", []).configurations == plan.configurations


@pytest.mark.parametrize(
    ("idea", "message"),
    [
        (Idea(name="none", configuration="3d_fullres", terms=(), because=""), "changes nothing"),
        (
            Idea(
                name="all", configuration="3d_fullres", terms=(), replaces=("dice",), because=""
            ),
            "leaves no term",
        ),
        (TOP_K, "top_k replaces cross_entropy, which the loss does not have"),
        (an_idea("sigmoid", BinaryCrossEntropyTerm()), "is for regions"),
    ],
    ids=["nothing", "no term", "nothing to replace", "not for labels"],
)  # fmt: skip
def test_an_idea_that_cannot_be_raced_is_named(idea: Idea, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        arm_plan(a_plan(idea), "3d_fullres", [idea])
    assert idea.name in caught.value.remedy


def test_an_idea_may_not_take_away_what_another_brought() -> None:
    """Adaptive weights and class weights both take the place of plain cross-entropy."""
    weighted = an_idea(
        "weights",
        CrossEntropyTerm(class_weights=(0.5, 1.0, 2.0)),
        replaces=("cross_entropy",),
    )
    plan = with_loss(a_plan(TOP_K, weighted), "3d_fullres", PLAIN)
    for idea in (TOP_K, weighted):
        arm_plan(plan, "3d_fullres", [idea])
    with pytest.raises(PlanError, match="top_k replaces cross_entropy, which weights brought"):
        arm_plan(plan, "3d_fullres", [weighted, TOP_K])
    with pytest.raises(PlanError, match="weights replaces cross_entropy, which the loss does not"):
        arm_plan(plan, "3d_fullres", [TOP_K, weighted])


def test_untried_ideas_of_the_configuration_are_raced_in_order() -> None:
    tried = an_idea("tried").model_copy(update={"trials": (a_trial(),)})
    other = an_idea("other").model_copy(update={"configuration": "2d"})
    plan = a_plan(TOP_K, tried, other, FOCAL)
    assert entrants(plan, CONFIGURATION, None, 4) == (TOP_K, FOCAL)
    assert entrants(plan, CONFIGURATION, None, 1) == (TOP_K,)
    assert entrants(plan, CONFIGURATION, ["focal", "tried"], 4) == (tried, FOCAL)
    told = describe_rest(a_plan(tried, other), CONFIGURATION)
    assert "nominates 2, 1 of them" in told
    assert "tried (rejected)" in told
    assert "--config 2d" in told


def test_ideas_that_cannot_be_wanted() -> None:
    inside = an_idea("inside").model_copy(update={"trials": (a_trial(accepted=True),)})
    plan = a_plan(TOP_K, inside)
    for wanted, most, message in (
        (["missing"], 4, "no idea 'missing'"),
        (["inside"], 4, "accepted before"),
        (["top_k"], 0, "at most 0"),
    ):
        with pytest.raises(PlanError, match=message):
            entrants(plan, CONFIGURATION, wanted, most)


@pytest.mark.parametrize(
    ("ideas", "message"),
    [
        ((TOP_K, FOCAL, TOP_K), "nominated: two ideas of 3d_fullres are named 'top_k'"),
        (
            (TOP_K.model_copy(update={"labels": ("core", "liver")}),),
            "nominated.top_k.labels: liver, must be some of core, rim",
        ),
    ],
    ids=["name", "labels"],
)
def test_ideas_that_no_race_could_judge_are_found_before(
    ideas: tuple[Idea, ...], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(a_plan(*ideas))
    assert message in caught.value.message


def test_a_name_may_not_look_like_two_ideas() -> None:
    written = TOP_K.model_dump_json().replace("top_k", "a+b", 1)
    with pytest.raises(RecordError, match="name"):
        serial.decode(Idea, written, source="plan.json")


def raced(*, accepted: tuple[str, ...] = ()) -> RaceRecord:
    """Return a race of both ideas, in which the named ones won."""
    ideas = (TOP_K, FOCAL)
    trials = tuple(
        RaceTrial(
            idea=idea.name,
            arm=f"plain+{idea.name}",
            against="plain",
            gains=(0.1, None),
            trial=a_trial(accepted=idea.name in accepted),
        )
        for idea in ideas
    )
    record = a_record(ideas, trials)
    won = [idea for idea in ideas if idea.name in accepted]
    loss = apply_ideas(record.basis.configuration, won).loss
    return record.model_copy(update={"accepted": accepted, "loss": loss})


def test_the_plan_tells_all_numbers_and_has_what_won() -> None:
    plan, record = a_plan(TOP_K, FOCAL, an_idea("later")), raced(accepted=("top_k",))
    updated = with_outcome(plan, record)
    assert updated.configurations[0].loss.terms == (DiceTerm(), TopKTerm())
    top_k, focal, later = updated.nominated
    assert [idea.trials[0].accepted for idea in (top_k, focal)] == [True, False]
    assert later.trials == ()
    told = {decision.subject: decision for decision in updated.decisions}
    assert told["configurations.3d_fullres.nominated.top_k"].value == "accepted"
    assert told["configurations.3d_fullres.nominated.focal"].value == "rejected"
    loss = told["configurations.3d_fullres.loss.terms"]
    assert (loss.value, loss.alternatives) == ("1 dice + 1 top_k", ("1 dice",))
    assert with_outcome(updated, record) == updated  # written once, however often it is run


def test_an_earlier_race_is_not_written_again() -> None:
    first, second = raced(), raced()
    other = a_trial().model_copy(update={"steps": 700})
    trials = tuple(trial.model_copy(update={"trial": other}) for trial in second.trials)
    second = second.model_copy(update={"trials": trials})
    plan = with_outcome(with_outcome(a_plan(TOP_K, FOCAL), first), second)
    assert [len(idea.trials) for idea in plan.nominated] == [2, 2]
    assert with_outcome(plan, first) == plan


def test_what_won_is_decided_in_place_of_what_the_planner_said() -> None:
    """And the verdict of a later race on the same idea in place of the former one."""
    path = "configurations.3d_fullres"
    decisions = tuple(
        Decision(rule="loss", subject=subject, value="1 dice", because="usual")
        for subject in (f"{path}.loss.terms", f"{path}.loss", path)
    )
    plan = a_plan(TOP_K, FOCAL).model_copy(update={"decisions": decisions})
    once = with_outcome(plan, raced(accepted=("top_k",)))
    told = {decision.subject: decision for decision in once.decisions}
    assert len(told) == len(once.decisions) == 5
    assert told[path] == decisions[2]
    assert told[f"{path}.loss"].because == "usual; but terms: see rule race.loss"
    loss = told[f"{path}.loss.terms"]
    assert (loss.rule, loss.value) == ("race.loss", "1 dice + 1 top_k")
    assert loss.because.endswith("in place of 1 dice (rule loss)")
    later = a_trial().model_copy(update={"steps": 700})
    record = raced()
    trials = tuple(trial.model_copy(update={"trial": later}) for trial in record.trials)
    twice = with_outcome(with_outcome(plan, record), record.model_copy(update={"trials": trials}))
    subjects = [decision.subject for decision in twice.decisions]
    assert len(subjects) == len(set(subjects)) == 5
    verdict = next(d for d in twice.decisions if d.subject == f"{path}.nominated.top_k")
    assert "raced for 700 steps" in verdict.because
    assert verdict.because.endswith("in place of rejected (rule race.accept_idea)")


def test_outcomes_are_written_one_after_another(tmp_path: Path) -> None:
    """Races of two configurations may end at the same time; neither forgets the other's."""
    folder = DatasetFolder(tmp_path)
    serial.save(a_plan(TOP_K, FOCAL), folder.plan)
    before = folder.plan.read_bytes()
    writer = threading.Thread(target=write_outcome, args=(folder, raced()))
    with waited_for(folder.plan_lock, "changes the plan"):
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert folder.plan.read_bytes() == before
    writer.join(30)
    assert all(idea.trials for idea in serial.load(Plan, folder.plan).nominated)


def test_without_a_winner_only_the_numbers_are_written() -> None:
    plan = a_plan(TOP_K, FOCAL)
    updated = with_outcome(plan, raced())
    assert updated.configurations == plan.configurations
    assert len(updated.decisions) == 2
    assert all(len(idea.trials) == 1 for idea in updated.nominated)


def test_a_plan_that_changed_meanwhile_is_refused() -> None:
    edited = with_loss(a_plan(TOP_K, FOCAL), "3d_fullres", Loss(terms=(TverskyTerm(),)))
    with pytest.raises(PlanError, match=r"configurations\.3d_fullres changed during the race"):
        with_outcome(edited, raced(accepted=("top_k",)))
    other = an_idea("focal", FocalTerm(gamma=3.0))
    with pytest.raises(PlanError, match=r"nominated\.focal changed"):
        with_outcome(a_plan(TOP_K, other), raced())
