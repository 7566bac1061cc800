import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.evaluation.field_of_view import (
    area_under_curve,
    confusion,
    field_of_view_scores,
)

SHAPE = (1, 20, 30)


def area_by_pairs(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of pairs in the right order; equal values are half right."""
    pairs = values[reference][:, None] - values[~reference][None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_counts_and_shares() -> None:
    prediction = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    reference = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    found = confusion(prediction, reference)
    counts = (
        found.true_positive, found.false_positive, found.false_negative, found.true_negative,
    )  # fmt: skip
    assert counts == (2, 1, 3, 4)
    assert found.sensitivity == pytest.approx(2 / 5)
    assert found.specificity == pytest.approx(4 / 5)
    assert found.precision == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(6 / 10)
    assert found.f1 == pytest.approx(4 / 8)


def test_area_under_the_curve_by_hand() -> None:
    reference = np.array([False, False, True, True])
    assert area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), reference) == 0.75
    assert area_under_curve(np.array([0.1, 0.2, 0.3, 0.4]), reference) == 1
    assert area_under_curve(np.array([0.4, 0.3, 0.2, 0.1]), reference) == 0
    assert area_under_curve(np.full(4, 0.3), reference) == 0.5
    assert area_under_curve(np.array([0.1, 0.3, 0.3, 0.4]), reference) == 0.875
    assert area_under_curve(np.arange(4.0), np.ones(4, bool)) is None


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 20), size=st.integers(2, 80))
def test_area_counts_every_pair_and_ties_half(seed: int, levels: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, levels, size) / levels).astype(np.float16)
    reference = rng.random(size) < 0.4
    reference[:2] = True, False
    found = area_under_curve(values, reference)
    assert found == pytest.approx(area_by_pairs(values.astype(float), reference))


def test_only_pixels_inside_count() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random(SHAPE) < 0.3
    probabilities = np.clip(reference * 0.4 + rng.random(SHAPE) * 0.6, 0, 1)
    inside = np.zeros(SHAPE, dtype=bool)
    inside[:, 4:15, 5:25] = True
    expected = field_of_view_scores(probabilities, reference, inside)
    disturbed = np.where(inside, probabilities, 1 - probabilities)
    assert field_of_view_scores(disturbed, reference, inside) == expected
    assert field_of_view_scores(disturbed, reference, np.ones_like(inside)) != expected
    assert expected.auc == pytest.approx(area_by_pairs(probabilities[inside], reference[inside]))


def test_both_thresholds() -> None:
    # Half of the vessel has a probability below one half, which Otsu's threshold finds.
    reference = np.zeros(SHAPE, dtype=bool)
    reference[:, 5:8] = True
    probabilities = np.where(reference, 0.45, 0.05)
    probabilities[:, 5:8, :15] = 0.6
    found = field_of_view_scores(probabilities, reference, np.ones_like(reference))
    assert (found.sensitivity, found.specificity, found.precision) == (0.5, 1, 1)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.otsu_threshold is not None
    assert 0.05 <= found.otsu_threshold < 0.45
    assert found.otsu_sensitivity == found.otsu_f1 == found.otsu_accuracy == found.auc == 1


def test_exactly_one_half_is_background() -> None:
    reference = np.ones((1, 1, 2), dtype=bool)
    found = field_of_view_scores(np.array([[[0.5, 0.500001]]]), reference, reference)
    assert found.sensitivity == 0.5


def test_a_mask_has_neither_curve_nor_threshold() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 3:6] = True
    found = field_of_view_scores(mask, mask, np.ones_like(mask))
    assert found.f1 == found.accuracy == 1
    assert found.auc is found.otsu_threshold is found.otsu_f1 is None


def test_nothing_to_have_a_share_of() -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    nothing = field_of_view_scores(np.zeros(SHAPE, np.float16), empty, empty)
    assert {value for _, value in nothing} == {None}
    found = field_of_view_scores(np.zeros(SHAPE, np.float16), empty, ~empty)
    assert found.auc is found.sensitivity is found.precision is found.f1 is None
    assert found.specificity == found.accuracy == found.otsu_accuracy == 1


def test_arrays_of_several_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        field_of_view_scores(np.ones((1, 2, 3)), np.ones((1, 2, 3), bool), np.ones((2, 3), bool))
