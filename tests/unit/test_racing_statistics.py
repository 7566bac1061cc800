"""Intervals of paired gains: against scipy, and false acceptance in simulated races."""

from __future__ import annotations

import numpy as np
import pytest
from racedata import cases_of, verdicts
from scipy import stats

from selfseg.racing.statistics import fold_p_value, mean_interval

RNG = np.random.default_rng(5)


def test_without_shared_patients_it_is_the_t_interval() -> None:
    values = RNG.normal(0.02, 0.1, 23)
    groups = [str(i) for i in range(23)]
    found = mean_interval(values, groups, ["0"] * 23, confidence=0.9, fold_level=0.25)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.estimate.lower, found.estimate.upper) == pytest.approx((low, high))
    assert not found.by_fold


def test_a_patient_with_many_equal_cases_counts_as_one() -> None:
    single = RNG.normal(0.02, 0.1, 9)
    groups = [str(i) for i in range(9)]
    once = mean_interval(single, groups, ["0"] * 9, confidence=0.9, fold_level=0.25)
    thrice = mean_interval(
        np.repeat(single, 3), np.repeat(groups, 3).tolist(), ["0"] * 27,
        confidence=0.9, fold_level=0.25,
    )  # fmt: skip
    assert thrice.estimate.lower == pytest.approx(once.estimate.lower)


def test_folds_that_differ_become_the_observations() -> None:
    folds = [str(i % 4) for i in range(40)]
    means = np.array([0.05, -0.03, 0.06, 0.0])
    values = means[np.arange(40) % 4] + RNG.normal(0, 0.001, 40)
    groups = [str(i) for i in range(40)]
    found = mean_interval(values, groups, folds, confidence=0.9, fold_level=0.25)
    assert found.by_fold
    of_folds = [values[np.arange(40) % 4 == fold].mean() for fold in range(4)]
    low, _ = stats.ttest_1samp(of_folds, 0.0).confidence_interval(0.9)
    assert found.estimate.lower == pytest.approx(low)
    # the same without the test of folds: forty observations that are not
    assert mean_interval(
        values, groups, folds, confidence=0.9, fold_level=0.0
    ).estimate.lower > 0 > found.estimate.lower  # fmt: skip


def test_the_test_of_folds_is_that_of_scipy() -> None:
    values, folds = RNG.normal(0, 1, 17), sorted(str(i % 3) for i in range(17))
    parts = [values[np.array(folds) == fold] for fold in "012"]
    assert fold_p_value(values, folds) == pytest.approx(stats.f_oneway(*parts).pvalue)


@pytest.mark.parametrize(
    ("values", "folds", "p"),
    [([0.1, 0.2], "00", 1.0), ([0.1, 0.2], "01", 1.0), ([0.1, 0.1, 0.2, 0.2], "0011", 0.0),
     ([0.5, 0.5, 0.5], "001", 1.0)],
    ids=["one fold", "a case a fold", "no spread in folds", "no spread at all"],
)  # fmt: skip
def test_where_folds_cannot_be_tested(values: list[float], folds: str, p: float) -> None:
    assert fold_p_value(np.array(values), list(folds)) == p


@pytest.mark.parametrize("cases", [1, 3])
def test_one_patient_says_nothing(cases: int) -> None:
    values, groups, folds = np.full(cases, 0.3), ["a"] * cases, ["0"] * cases
    one = mean_interval(values, groups, folds, confidence=0.9, fold_level=0.25).estimate
    assert (one.lower, one.value, one.upper) == pytest.approx((-1.0, 0.3, 1.0))


@pytest.mark.parametrize("folds", [5, 3, 2])
def test_ideas_that_change_nothing_are_seldom_accepted(folds: int) -> None:
    """240 races of 1 to 4 ideas a number of folds: at most a tenth of the ideas is accepted."""
    rng = np.random.default_rng(folds)
    accepted = tried = 0
    for race in range(240):
        cases = cases_of((8, 12, 20, 40, 100)[race % 5], folds)
        trials = verdicts(rng, cases, (0.0,) * (1 + race % 4))
        accepted += sum(trial.trial.accepted for trial in trials)
        tried += len(trials)
    assert tried == 600
    assert 0 < accepted <= 0.1 * tried


@pytest.mark.parametrize("folds", [5, 2])
def test_an_idea_that_loses_two_points_is_never_accepted_and_mostly_told(folds: int) -> None:
    rng = np.random.default_rng(folds)
    trials = [verdicts(rng, cases_of(40, folds), (-0.02,))[0].trial for _ in range(100)]
    assert not any(trial.accepted for trial in trials)
    told = sum("it does harm: the interval lies below zero" in trial.because for trial in trials)
    assert told >= (70 if folds == 5 else 40)


@pytest.mark.parametrize("count", [20, 40])
def test_an_idea_that_gains_two_points_is_mostly_accepted(count: int) -> None:
    rng = np.random.default_rng(count)
    trials = [verdicts(rng, cases_of(count), (0.02,))[0] for _ in range(50)]
    spread = np.std([gain for trial in trials for gain in trial.gains if gain is not None])
    assert spread > 0.025  # a case gains less than it changes by chance
    assert sum(trial.trial.accepted for trial in trials) >= 35
