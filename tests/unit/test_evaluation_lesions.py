import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.evaluation.lesions import LEAST_IOU, lesion_scores
from selfseg.records.metrics import LesionScores


def line(*spans: tuple[int, int], length: int = 40) -> np.ndarray:
    """Return a mask (1, 1, x) with lesions from first to last (exclusive) voxel."""
    mask = np.zeros((1, 1, length), dtype=bool)
    for start, stop in spans:
        mask[..., start:stop] = True
    return mask


def counts(scores: LesionScores) -> tuple[float | None, float | None, float | None]:
    return scores.reference_count, scores.predicted_count, scores.matched_count


def test_found_missed_and_invented() -> None:
    scores = lesion_scores(line((0, 4), (30, 33), (36, 38)), line((1, 5), (10, 12)))
    assert counts(scores) == (2, 3, 1)
    assert scores.sensitivity == 1 / 2
    assert scores.precision == 1 / 3
    assert scores.f1 == pytest.approx(2 / 5)


def test_two_lesions_predicted_as_one_are_found_once() -> None:
    assert counts(lesion_scores(line((0, 10)), line((0, 4), (6, 10)))) == (2, 1, 1)


def test_a_lesion_predicted_in_two_parts_is_found_once() -> None:
    assert counts(lesion_scores(line((0, 4), (6, 10)), line((0, 10)))) == (1, 2, 1)


def test_matching_takes_the_largest_sum_of_overlaps() -> None:
    # The first prediction overlaps both lesions, and the second more; taken greedily, one lesion
    # would be left over.
    prediction, reference = line((2, 12), (13, 20)), line((0, 6), (7, 20))
    assert counts(lesion_scores(prediction, reference)) == (2, 2, 2)
    # One match of 0.67 counts more than two of 0.17 and 0.16.
    prediction = line((0, 15), (16, 110), length=140)
    reference = line((0, 90), (92, 130), length=140)
    assert counts(lesion_scores(prediction, reference)) == (2, 2, 1)


def test_the_least_overlap_is_a_limit_that_counts() -> None:
    reference, prediction = line((0, 10)), line((9, 10))
    assert LEAST_IOU == 0.1
    assert counts(lesion_scores(prediction, reference)) == (1, 1, 1)
    assert counts(lesion_scores(prediction, reference, least_iou=0.101)) == (1, 1, 0)
    assert counts(lesion_scores(line((9, 11)), reference)) == (1, 1, 0)
    with pytest.raises(ValueError, match="least_iou"):
        lesion_scores(prediction, reference, least_iou=0.0)


def test_corners_join_lesions() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert counts(lesion_scores(mask, mask)) == (1, 1, 1)


def test_empty_masks() -> None:
    empty, lesion = line(), line((3, 5))
    both = lesion_scores(empty, empty)
    assert counts(both) == (0, 0, 0)
    assert both.sensitivity is both.precision is both.f1 is None
    missed = lesion_scores(empty, lesion)
    assert (missed.sensitivity, missed.precision, missed.f1) == (0, None, 0)
    invented = lesion_scores(lesion, empty)
    assert (invented.sensitivity, invented.precision, invented.f1) == (None, 0, 0)


def test_what_is_not_known_does_not_count() -> None:
    known = line((0, 20))
    scores = lesion_scores(line((0, 4), (30, 33)), line((0, 4), (25, 27)), known)
    assert counts(scores) == (1, 1, 1)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        lesion_scores(line(length=4), line(length=5))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.05, 0.5))
def test_swapping_the_masks_swaps_sensitivity_and_precision(seed: int, density: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 4, 9, 9)) < density
    there, back = lesion_scores(a, b), lesion_scores(b, a)
    assert there.matched_count == back.matched_count
    assert (there.sensitivity, there.precision) == (back.precision, back.sensitivity)
    assert lesion_scores(a, a).f1 in (1, None)
