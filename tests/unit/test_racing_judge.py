"""Paired gains case by case, and what they say of an idea."""

from __future__ import annotations

import math

import numpy as np
import pytest
from racedata import NAMES, an_idea, cases_of, ground_of, label_scores, simulate

from selfseg.racing.judge import judge, paired_gains
from selfseg.records.loss_terms import ClDiceTerm
from selfseg.records.metrics import CaseScores, LabelScores
from selfseg.records.race import Arm, ArmResult, RaceTrial

WITH = Arm(ideas=("worst",))


def case(core: LabelScores, rim: LabelScores) -> CaseScores:
    return CaseScores(case="case_0", labels={"core": core, "rim": rim})


def test_what_is_rightly_absent_counts_as_one() -> None:
    nothing = label_scores(None, None)
    ours = [case(label_scores(0.75, 0.5), nothing), case(nothing, nothing)]
    theirs = [case(label_scores(0.5, 0.5), label_scores(0.0, 0.0)), case(nothing, nothing)]
    gains = paired_gains(ours, theirs, NAMES, "dice")
    np.testing.assert_allclose(gains, [[0.25, 1.0], [np.nan, np.nan]])
    np.testing.assert_allclose(paired_gains(theirs, ours, NAMES, "dice"), -gains)


def test_errors_of_the_number_of_pieces_become_scores() -> None:
    ours = [case(label_scores(0.5, 0.5, 0.75, 0.0), label_scores(0.5, 0.5, 0.5, 3.0))]
    theirs = [case(label_scores(0.5, 0.5, 0.5, 1.0), label_scores(0.5, 0.5, 0.5, 1.0))]
    np.testing.assert_allclose(paired_gains(ours, theirs, NAMES, "betti0"), [[0.5, -0.25]])
    np.testing.assert_allclose(paired_gains(ours, theirs, NAMES, "cldice"), [[0.25, 0.0]])


def results(core: tuple[float, float], rim: tuple[float, float], count: int = 20) -> ArmResult:
    """Return an arm with the same Dice and NSD in all cases."""
    scored = case(label_scores(*core), label_scores(*rim))
    cases = tuple(scored.model_copy(update={"case": f"case_{i}"}) for i in range(count))
    return ArmResult(arm="", cases=cases)


def test_the_judged_gain_is_the_mean_of_labels_and_metrics() -> None:
    ground = ground_of(cases_of(20))
    better, plain = results((0.9, 0.7), (0.6, 0.6)), results((0.8, 0.6), (0.6, 0.5))
    trial = judge(ground, an_idea(), WITH, better, Arm(), plain)
    assert trial.gains == pytest.approx((0.075,) * 20)
    judged, dice, nsd = trial.trial.gains
    assert judged.metric == "mean of dice and nsd"
    assert (dice.gain.value, nsd.gain.value) == pytest.approx((0.05, 0.1))
    assert trial.trial.accepted
    assert (trial.arm, trial.against) == ("plain+worst", "plain")


def test_a_label_that_loses_forbids_it() -> None:
    ground = ground_of(cases_of(20))
    better, plain = results((0.9, 0.9), (0.59, 0.6)), results((0.7, 0.7), (0.6, 0.6))
    trial = judge(ground, an_idea(), WITH, better, Arm(), plain).trial
    assert not trial.accepted
    assert trial.worst_change == pytest.approx(-0.01)
    # also where the idea is judged on the other label
    for_core = an_idea().model_copy(update={"labels": ("core",)})
    found = judge(ground, for_core, WITH, better, Arm(), plain)
    assert not found.trial.accepted
    assert found.gains == pytest.approx((0.2,) * 20)


def test_ideas_for_tubes_are_judged_by_topology() -> None:
    ground, tube = ground_of(cases_of(20)), an_idea("tube", ClDiceTerm(iterations=2))

    def arm(cldice: float, betti0: float) -> ArmResult:
        scored = case(*(label_scores(0.5, 0.5, cldice, betti0),) * 2)
        return ArmResult(arm="", cases=(scored,) * 20)

    trial = judge(ground, tube, WITH, arm(0.7, 1.0), Arm(), arm(0.6, 3.0)).trial
    told = {gain.metric: gain.gain.value for gain in trial.gains}
    assert list(told) == ["mean of cldice and betti0", "cldice", "betti0", "dice", "nsd"]
    assert told["mean of cldice and betti0"] == pytest.approx((0.1 + 0.25) / 2)


def test_cases_without_any_label_do_not_count() -> None:
    ground = ground_of(cases_of(20))
    nothing = case(label_scores(None, None), label_scores(None, None))
    better, plain = results((0.9, 0.9), (0.9, 0.9)), results((0.8, 0.8), (0.8, 0.8))

    def emptied(result: ArmResult, count: int) -> ArmResult:
        cases = (*(nothing,) * count, *result.cases[count:])
        return result.model_copy(update={"cases": cases})

    trial = judge(ground, an_idea(), WITH, emptied(better, 5), Arm(), emptied(plain, 5))
    assert trial.gains[:5] == (None,) * 5
    assert trial.trial.cases == 15
    assert trial.trial.gains[0].gain.value == pytest.approx(0.1)
    nowhere = judge(ground, an_idea(), WITH, emptied(better, 20), Arm(), emptied(plain, 20))
    assert (nowhere.gains, nowhere.trial.accepted) == ((), False)
    assert nowhere.trial.because.startswith("no held-out case has any of its labels")


@pytest.mark.parametrize(("kept", "folds"), [(1, 1), (4, 1), (8, 2)])
def test_folds_without_any_label_do_not_count(kept: int, folds: int) -> None:
    """Twenty cases in five folds, of which only the first `kept` have a label."""
    nothing = case(label_scores(None, None), label_scores(None, None))
    arms = [results((dice,) * 2, (dice,) * 2) for dice in (0.9, 0.8)]
    better, plain = (
        arm.model_copy(update={"cases": (*arm.cases[:kept], *(nothing,) * (20 - kept))})
        for arm in arms
    )
    found = judge(ground_of(cases_of(20)), an_idea(), WITH, better, Arm(), plain).trial
    assert found.cases == kept
    assert found.accepted == (folds > 1)
    assert ("one fold cannot tell" in found.because) == (folds == 1)
    assert (found.gains[0].gain.lower > 0) == (kept > 1)


def test_exchanged_arms_give_the_opposite_gain() -> None:
    cases = cases_of(30)
    plain, other = simulate(np.random.default_rng(0), cases, (0.01,))

    def gain_of(trial: RaceTrial) -> tuple[float, float, float]:
        gain = trial.trial.gains[0].gain
        return gain.value, gain.lower, gain.upper

    ground = ground_of(cases)
    value, lower, upper = gain_of(judge(ground, an_idea(), WITH, other, Arm(), plain))
    opposite = gain_of(judge(ground, an_idea(), WITH, plain, Arm(), other))
    assert opposite == pytest.approx((-value, -upper, -lower))
    assert math.isfinite(lower)
    assert lower < value < upper
