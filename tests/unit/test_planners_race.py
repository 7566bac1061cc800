"""The rules of a race: how long, judged on what, accepted when."""

from __future__ import annotations

import pytest
from racedata import a_trial, an_idea
from selfseg.planners.race import DefaultRacer

from selfseg.planning import find_planner
from selfseg.racing.rules import Racer, Racing, find_racer
from selfseg.records.estimate import Estimate
from selfseg.records.ideas import RaceGain
from selfseg.records.loss_terms import (
    CbDiceTerm,
    ClDiceTerm,
    SegmentTerm,
    SegmentWeightsTerm,
    SkeletonRecallTerm,
    SmoothnessTerm,
)
from selfseg.records.optimization import SGD, Optimization, Poly, Recipe
from selfseg.records.race import Arm, RaceEvidence, RaceLength, RaceTrial

RECIPE = Recipe(optimizer=SGD(), schedule=Poly(), validation_share=0.2)
OPTIONS = Optimization(
    recipe=RECIPE, short_recipe=RECIPE, short_below_steps=100, epochs=1000, steps_per_epoch=250
)


def verdict(
    gain: tuple[float, float, float] = (0.02, 0.01, 0.03),
    *,
    worst: float = 0.0,
    folds: int = 5,
    cases: int = 40,
    better: int = 25,
) -> str:
    value, lower, upper = gain
    evidence = RaceEvidence(
        metrics=("dice", "nsd"),
        gain=Estimate(value=value, lower=lower, upper=upper),
        worst_change=worst,
        folds=folds,
        cases=cases,
        cases_better=better,
        by_fold=False,
    )
    return str(DefaultRacer().accept_idea(evidence).value)


def length(
    *step_s: float | None,
    remaining_s: float | None = 3600.0,
    case_s: float = 1.0,
    held_out: tuple[int, ...] = (8,) * 5,
    options: Optimization = OPTIONS,
) -> RaceLength:
    arms = [
        Arm(ideas=(f"idea {n}",) if n else (), step_s=seconds) for n, seconds in enumerate(step_s)
    ]
    found: RaceLength = DefaultRacer().race_length(arms, held_out, case_s, options, remaining_s)
    return found


def test_a_gain_whose_interval_lies_above_zero_is_accepted() -> None:
    assert verdict() == "accepted"
    assert verdict((0.02, -0.001, 0.05)) == "rejected"
    assert verdict((0.0, 0.0, 0.0)) == "rejected"


def test_no_label_may_lose_more_than_half_a_point() -> None:
    assert verdict(worst=-0.0049) == "accepted"
    assert verdict(worst=-0.0051) == "rejected"


def test_of_few_cases_four_fifths_must_gain() -> None:
    assert verdict(cases=14, better=11) == "rejected"
    assert verdict(cases=14, better=12) == "accepted"
    assert verdict(cases=15, better=9) == "accepted"


def test_one_fold_accepts_nothing() -> None:
    assert verdict(folds=1) == "rejected"
    assert verdict(folds=2) == "accepted"


def test_tubes_are_judged_by_topology() -> None:
    racer = DefaultRacer()
    tube = an_idea("tube", SmoothnessTerm(axis_weights=(1.0,) * 3), ClDiceTerm(iterations=3))
    assert racer.race_metrics(tube) == ("cldice", "betti0")
    assert racer.race_metrics(an_idea()) == ("dice", "nsd")
    for term in (
        CbDiceTerm(iterations=3),
        SegmentTerm(),
        SegmentWeightsTerm(),
        SkeletonRecallTerm(),
    ):
        assert racer.race_metrics(an_idea("tube", term)) == ("cldice", "betti0"), term.kind


def won(name: str, value: float, half: float) -> RaceTrial:
    estimate = Estimate(value=value, lower=value - half, upper=value + half)
    gains = (RaceGain(metric="mean of …", gain=estimate),)
    trial = a_trial(accepted=True).model_copy(update={"gains": gains})
    return RaceTrial(idea=name, arm=f"plain+{name}", against="plain", gains=(value,), trial=trial)


def test_ideas_are_ordered_by_how_sure_their_gain_is() -> None:
    """Pieces gain ten times what overlap does, on a scale of its own, and are less sure."""
    pieces, overlap = won("pieces", 0.2, 0.15), won("overlap", 0.02, 0.005)
    larger, exact = won("larger", 0.04, 0.01), won("exact", 0.01, 0.0)
    found = DefaultRacer().rank_ideas([pieces, overlap, larger, exact])
    assert [trial.idea for trial in found] == ["exact", "larger", "overlap", "pieces"]


def test_without_limit_a_race_takes_a_quarter_of_the_epochs() -> None:
    found = length(None, None, None, remaining_s=None)
    assert (found.epochs, found.steps_per_epoch, found.further_arms) == (250, 250, 1)
    one = OPTIONS.model_copy(update={"epochs": 1})
    assert length(None, None, remaining_s=None, options=one).epochs == 1


@pytest.mark.parametrize("costs", [(0.5, 0.5), (0.5, 0.6, 1.0), (0.5,) * 5])
def test_all_that_may_be_trained_fits_the_time(costs: tuple[float, ...]) -> None:
    found = length(*costs, remaining_s=7200.0, case_s=10.0)
    further = min(len(costs) - 2, 1)
    assert found.further_arms == further
    arms = (*costs, *(max(costs),) * further)
    training_s = 5 * found.steps * sum(arms) * (1 + 0.2 / 3)  # with the validation of epochs
    prediction_s = len(arms) * 40 * 10.0
    assert training_s + prediction_s < 0.88 * 7200
    assert training_s + prediction_s > 0.75 * 7200  # and the time is used
    # nothing beside training and predicting takes more than a tenth of the latter
    assert training_s + 1.1 * prediction_s == pytest.approx(0.88 * 7200, rel=0.02)


def test_costly_terms_and_slow_predictions_cost_steps() -> None:
    plain = length(0.5, 0.5)
    assert length(0.5, 1.0).steps < 0.75 * plain.steps
    assert length(0.5, 0.5, case_s=10.0).steps < plain.steps
    assert "fewer than 500 steps" in length(0.5, 5.0).decision.because
    assert "fewer than" not in length(0.05, 0.05).decision.because


def test_no_time_gives_no_step_and_much_time_the_plan_s_length() -> None:
    assert length(0.5, 0.5, remaining_s=60.0).steps == 0
    assert length(0.5, 0.5, remaining_s=1e9).steps == 250_000


def test_a_planner_without_such_rules_gets_the_default_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(find_planner("default"), Racing)
    assert isinstance(find_racer(), Racer)
    default = find_planner("default")

    class Plain:
        name, version = "plain", "1"

    monkeypatch.setattr(
        "selfseg.planning.find_planner", lambda name: default if name == "default" else Plain()
    )
    assert isinstance(find_racer("plain"), Racer)
