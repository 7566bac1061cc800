"""AUC against all pairs, intervals and p-values against what they should be by chance."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfseg.classification.statistics import (
    area_under_curve,
    bootstrap_area,
    classification_scores,
    permutation_p,
    youden_threshold,
)
from selfseg.cli.classify_tables import print_scores
from selfseg.records.classification import Uncertainty
from selfseg.reporting.classification_plot import (
    calibration_bins,
    roc_points,
    share_intervals,
)


def alone(count: int) -> np.ndarray:
    return np.array([f"{index}" for index in range(count)])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_is_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    values = np.array([value / 5 for value, _ in rows])
    positives = np.array([positive for _, positive in rows])
    a, b = values[positives], values[~positives]
    if not len(a) or not len(b):
        return
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert area_under_curve(values, positives) == pytest.approx(np.mean(pairs))
    points = roc_points(values, positives)
    area = np.trapezoid(points[:, 1], points[:, 0])
    assert area == pytest.approx(np.mean(pairs))


def test_repeated_patients_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    positives = np.arange(40) % 2 == 0
    values = rng.normal(size=40) + positives
    draw = partial(bootstrap_area, replicates=1000, confidence=0.95, seed=0)
    single = draw(values, positives, alone(40))
    many, true = np.repeat(values, 4), np.repeat(positives, 4)
    four = draw(many, true, np.repeat(alone(40), 4))
    naive = draw(many, true, alone(160))
    assert four == single
    assert naive.upper - naive.lower < 0.7 * (single.upper - single.lower)
    assert single.lower < single.value < single.upper


def test_the_interval_is_near_the_one_of_hanley_and_mcneil() -> None:
    rng = np.random.default_rng(1)
    positives = np.arange(200) < 80
    values = rng.normal(size=200) + 1.0 * positives
    found = bootstrap_area(values, positives, alone(200), replicates=2000, confidence=0.95, seed=0)
    a, p, n = found.value, 80, 120
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    error = np.sqrt((a * (1 - a) + (p - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (p * n))
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_p_values_of_noise_are_uniform_and_of_signal_small() -> None:
    rng = np.random.default_rng(0)
    positives = np.arange(30) % 3 == 0
    noise = [
        permutation_p(rng.random(30), positives, alone(30), permutations=99, seed=seed)
        for seed in range(300)
    ]
    assert np.mean(np.array(noise) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(noise) == pytest.approx(0.5, abs=0.06)
    signal = rng.random(30) + positives
    assert permutation_p(signal, positives, alone(30), permutations=99, seed=0) == 0.01


def test_patients_swap_labels_as_a_whole() -> None:
    # Two patients a class with many alike regions: there are only six ways to swap.
    positives = np.repeat([True, True, False, False], 10)
    groups = np.repeat(["a", "b", "c", "d"], 10)
    values = positives.astype(float)
    p = permutation_p(values, positives, groups, permutations=600, seed=0)
    assert p == pytest.approx(1 / 6, abs=0.05)


def test_a_threshold_parts_what_can_be_parted() -> None:
    values = np.array([0.1, 0.2, 0.7, 0.9])
    positives = np.array([False, False, True, True])
    assert youden_threshold(values, positives) == pytest.approx(0.45)
    assert youden_threshold(np.full(4, 0.3), positives) == 0.3


def test_scores_of_a_small_table() -> None:
    values = np.array([0.9, 0.4, 0.6, 0.1])
    positives = np.array([True, True, False, False])
    found = classification_scores(
        values, values >= 0.5, positives, alone(4),
        uncertainty=Uncertainty(replicates=50, permutations=50), seed=0, missing=("x",),
    )  # fmt: skip
    assert found.auc.value == 0.75
    assert (found.sensitivity, found.specificity, found.balanced_accuracy) == (0.5, 0.5, 0.5)
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert found.missing == ("x",)


def test_intervals_are_as_sure_as_was_decided(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    positives = np.arange(40) % 2 == 0
    values = rng.normal(size=40) + positives
    score = partial(classification_scores, values, values > 0, positives, alone(40), seed=0)
    scores = score(uncertainty=Uncertainty(replicates=500, permutations=9, confidence=0.8))
    usual = score(uncertainty=Uncertainty(replicates=500, permutations=9))
    assert (scores.confidence, usual.confidence) == (0.8, 0.95)
    assert scores.auc.upper - scores.auc.lower < 0.8 * (usual.auc.upper - usual.auc.lower)
    print_scores(scores, "scores")
    assert "AUC (80 % interval)" in capsys.readouterr().out
    # Clopper & Pearson of none and of all: one tail in closed form.
    low, high = share_intervals(np.array([0.0, 6.0]), np.array([6.0, 6.0]), 0.8)
    assert low == pytest.approx([0.0, 0.1 ** (1 / 6)])
    assert high == pytest.approx([1 - 0.1 ** (1 / 6), 1.0])


def test_calibration_bins_hold_every_region_once() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(37)
    positives = rng.random(37) < values
    means, counts, hits = calibration_bins(values, positives)
    assert counts.sum() == 37
    assert hits.sum() == positives.sum()
    assert (np.diff(means) > 0).all()
    assert (means * counts).sum() == pytest.approx(values.sum())
