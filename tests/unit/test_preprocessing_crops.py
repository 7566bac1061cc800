"""Boxes around components: every organ its own, margins in mm, at least a patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import plain
from trainingdata import write_case

from selfseg.io.store import save_array
from selfseg.preprocessing.crops import Cropper, find_crops
from selfseg.records import serial
from selfseg.records.crop import Crop
from selfseg.records.geometry import Box, CompanionRecord

TARGETS = plain(2)
SPACING_MM = (5.0, 1.0, 1.0)


def two_organs() -> np.ndarray:
    """A left organ with a lesion (label 2), and a right one, far apart; a speck of one voxel."""
    label = np.zeros((20, 60, 100), np.int16)
    label[8:12, 20:30, 10:22] = 1
    label[9:11, 24:28, 12:16] = 2
    label[7:11, 22:31, 70:80] = 1
    label[2, 50, 50] = 1
    return label


def cropper(patch: tuple[int, ...] = (1, 1, 1), **options: object) -> Cropper:
    return Cropper(Crop.model_validate({"margin_mm": 0.0, **options}), TARGETS, patch)


def test_every_organ_has_a_box_of_its_own_with_the_margin_in_mm() -> None:
    found = cropper(margin_mm=10.0, smallest_ml=0.1).boxes(two_organs(), SPACING_MM)
    assert found == (
        Box(lower=(6, 10, 0), upper=(14, 40, 32)),  # the larger one; cut off at the border
        Box(lower=(5, 12, 60), upper=(13, 41, 90)),
    )


def test_specks_get_a_box_unless_they_are_too_small() -> None:
    assert len(cropper(smallest_ml=0.005).boxes(two_organs(), SPACING_MM)) == 3
    assert len(cropper(smallest_ml=0.0051).boxes(two_organs(), SPACING_MM)) == 2


def test_only_labels_of_interest_are_looked_at() -> None:
    (found,) = cropper(labels=("label 2",)).boxes(two_organs(), SPACING_MM)
    assert found == Box(lower=(9, 24, 12), upper=(11, 28, 16))


def test_a_box_within_another_is_left_out() -> None:
    label = np.zeros((12, 12, 12), np.int16)
    label[2:9, 2:9, 2:9] = 1
    label[3:8, 3:8, 3:8] = 0
    label[5, 5, 5] = 1  # in the cavity
    assert cropper().boxes(label, SPACING_MM) == (Box(lower=(2, 2, 2), upper=(9, 9, 9)),)


def test_nothing_found_is_no_box() -> None:
    assert cropper().boxes(np.zeros((4, 5, 6), np.int16), SPACING_MM) == ()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    patch=st.tuples(*(st.integers(1, 12),) * 3),
    margin_mm=st.floats(0, 9),
)
def test_boxes_hold_all_components_lie_within_and_are_as_large_as_a_patch(
    seed: int, patch: tuple[int, int, int], margin_mm: float
) -> None:
    shape = (7, 9, 10)
    label = (np.random.default_rng(seed).random(shape) > 0.97).astype(np.int16)
    covered = np.zeros(shape, bool)
    for box in cropper(patch, margin_mm=margin_mm).boxes(label, SPACING_MM):
        sides = zip(box.lower, box.upper, shape, patch, strict=True)
        assert all(0 <= low < high <= n and high - low >= min(p, n) for low, high, n, p in sides)
        covered[box.slices] = True
    assert not (label.astype(bool) & ~covered).any()


def test_boxes_are_kept_until_what_they_come_from_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous, folder = tmp_path / "previous", tmp_path / "crops"
    write_case(tmp_path, "a", np.zeros((1, 20, 60, 100)), two_organs())
    previous.mkdir()

    def predict(label: np.ndarray, source: str) -> None:
        save_array(label, previous / "a.b2nd", patch=(8, 8, 8))
        serial.save(CompanionRecord(id="a", source=source), previous / "a.json")

    def boxes(options: Cropper) -> tuple[Box, ...]:
        return find_crops(["a"], tmp_path, previous, folder, options, workers=0)["a"]

    predict(two_organs(), "first")
    options = cropper(smallest_ml=0.02)
    expected = options.boxes(two_organs(), (1.0, 1.0, 1.0))
    assert boxes(options) == expected
    monkeypatch.setattr(Cropper, "boxes", lambda *_: pytest.fail("looked for again"))
    assert boxes(options) == expected
    monkeypatch.undo()
    assert boxes(cropper(smallest_ml=0.02, margin_mm=3.0)) != expected
    predict(two_organs()[:, :, ::-1].copy(), "second")
    assert boxes(options) != expected
