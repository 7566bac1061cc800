import numpy as np
import pytest
from targets import plain

from selfseg.evaluation.overlap import Overlap, overlaps


def test_counts_of_every_label() -> None:
    prediction = np.array([[[0, 1, 1, 2, 2, 2]]], dtype=np.uint8)
    reference = np.array([[[0, 1, 2, 2, 2, 0]]], dtype=np.int16)
    assert overlaps(prediction, reference, plain(3).members) == (
        Overlap(2, 1, 1),
        Overlap(3, 3, 2),
        Overlap(0, 0, 0),
    )


def test_values() -> None:
    overlap = Overlap(predicted=6, reference=4, both=3)
    assert overlap.dice == pytest.approx(0.6)
    assert overlap.iou == pytest.approx(3 / 7)
    assert overlap.volume_difference_ml(500.0) == pytest.approx(1.0)


def test_empty_masks() -> None:
    assert Overlap(0, 0, 0).dice is None
    assert Overlap(0, 0, 0).iou is None
    assert Overlap(5, 0, 0).dice == 0
    assert Overlap(0, 5, 0).iou == 0


def test_many_labels_do_not_overflow_the_index_type() -> None:
    values = np.arange(251, dtype=np.uint8).reshape(1, 1, -1)
    assert all(o == Overlap(1, 1, 1) for o in overlaps(values, values, plain(250).members))


def test_groups_count_their_labels_together() -> None:
    prediction = np.array([[[0, 1, 1, 2, 2, 2]]], dtype=np.uint8)
    reference = np.array([[[0, 1, 2, 2, 1, 0]]], dtype=np.int16)
    assert overlaps(prediction, reference, ((1, 2), (2,))) == (Overlap(5, 4, 4), Overlap(3, 2, 1))
