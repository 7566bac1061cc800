"""Predictions back to the image's grid: as resizing all logits in float64, then the maximum."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nnunetroute
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from targets import nested, plain

from selfseg.preprocessing import tiles
from selfseg.preprocessing.foreground import foreground_tiles
from selfseg.preprocessing.invert import label_map_from_logits, probabilities_from_logits
from selfseg.preprocessing.resample import separate_axis
from selfseg.records.dataset import Label, Region, Targets
from selfseg.records.geometry import Box, Geometry, Orientation, PreprocessedCase
from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3, Triple

OPTIONS = Resampling()
TARGETS = plain(2)
REGIONS = nested()
EQUAL = (1.0, 1.0, 1.0)


def make_record(
    working: Shape3,
    cropped: Shape3,
    *,
    spacing_mm: Triple = EQUAL,
    before_mm: Triple = EQUAL,
    margin: int = 0,
    axes: Shape3 = (0, 1, 2),
    is_2d: bool = False,
) -> PreprocessedCase:
    z, y, x = (n + 2 * margin for n in cropped)
    return PreprocessedCase(
        id="case",
        source="",
        native=Geometry(shape=(z, y, x), spacing_mm=before_mm, is_2d=is_2d),
        orientation=Orientation(),
        axes=axes,
        crop=Box(
            lower=(margin,) * 3,
            upper=(cropped[0] + margin, cropped[1] + margin, cropped[2] + margin),
        ),
        shape_before_crop=(z, y, x),
        spacing_before_mm=before_mm,
        shape=working,
        spacing_mm=spacing_mm,
    )


def smooth_logits(classes: int, shape: Shape3, seed: int = 0) -> np.ndarray:
    """Return logits of blobs, as a trained network gives them."""
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    return np.stack([40 * gaussian_filter(part, 1.5) for part in noise]).astype(np.float32)


def reference(logits: np.ndarray, record: PreprocessedCase) -> np.ndarray:
    """Return resized logits (k, Z, Y, X) of the cropped grid, in float64."""
    axis = separate_axis(
        record.spacing_mm, record.spacing_before_mm, OPTIONS, is_2d=record.native.is_2d
    )
    shape = record.crop.shape
    return np.stack([nnunetroute.resample(c.astype(float), shape, axis, 1) for c in logits])


def assert_argmax(result: np.ndarray, scores: np.ndarray, equal: float = 0.9999) -> None:
    """Check that each voxel has the largest score; float32 may swap scores that are equal."""
    np.testing.assert_array_less(scores.max(0) - 1e-4, pick(scores, result))
    assert (result == scores.argmax(0)).mean() >= equal


def pick(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
    return chosen


CASES = [
    ((12, 20, 22), (12, 20, 22), EQUAL, EQUAL),  # nothing to resample
    ((12, 20, 22), (19, 31, 37), EQUAL, (0.6, 0.6, 0.6)),
    ((12, 20, 22), (7, 13, 22), EQUAL, (1.6, 1.6, 1.0)),
    ((12, 20, 22), (5, 33, 35), (1.0, 1.0, 1.0), (5.0, 0.6, 0.6)),  # separate by the file's spacing
    ((9, 20, 22), (23, 26, 29), (4.0, 1.0, 1.0), (1.5, 0.8, 0.8)),  # by the working spacing
    ((20, 9, 22), (26, 23, 22), (1.0, 4.0, 1.0), (0.8, 1.5, 1.0)),  # along another axis
    ((20, 22, 9), (26, 22, 23), (1.0, 1.0, 4.0), (0.8, 1.0, 1.5)),
    ((1, 30, 31), (1, 47, 20), EQUAL, (1.0, 0.6, 1.5)),
    ((4, 1, 9), (9, 1, 4), EQUAL, EQUAL),
    ((3, 5, 4), (40, 1, 2), EQUAL, EQUAL),
]


@pytest.mark.parametrize(("working", "cropped", "spacing", "before"), CASES)
@pytest.mark.parametrize("classes", [2, 7])
def test_label_map_is_the_argmax_of_resized_logits(
    working: Shape3, cropped: Shape3, spacing: Triple, before: Triple, classes: int
) -> None:
    record = make_record(working, cropped, spacing_mm=spacing, before_mm=before)
    logits = smooth_logits(classes, working)
    result = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    assert result.dtype == np.uint8
    assert_argmax(result, reference(logits, record))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kinds_of_logits(dtype: torch.dtype) -> None:
    record = make_record((10, 18, 20), (15, 25, 30))
    logits = torch.from_numpy(smooth_logits(5, (10, 18, 20))).to(dtype)
    result = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    scores = reference(logits.float().numpy(), record)
    assert_argmax(result, scores, equal=0.9995)  # few digits make many equal scores


def test_noise_has_a_surface_everywhere() -> None:
    record = make_record((8, 11, 13), (13, 16, 20))
    logits = np.random.default_rng(1).normal(size=(6, 8, 11, 13)).astype(np.float32)
    result = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    assert_argmax(result, reference(logits, record))


def test_a_third_class_can_win_between_two() -> None:
    logits = np.full((3, 1, 1, 2), -1.0, np.float32)
    logits[0, 0, 0, 0] = logits[1, 0, 0, 1] = 1.0
    logits[2] = 0.9
    record = make_record((1, 1, 2), (1, 1, 6))
    result = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    assert result.tolist() == [[[0, 0, 2, 2, 1, 1]]]


def test_the_first_of_equal_classes_wins() -> None:
    logits = np.zeros((4, 2, 3, 3), np.float32)
    for shape in [(2, 3, 3), (5, 4, 7)]:
        result = label_map_from_logits(
            logits, make_record((2, 3, 3), shape), OPTIONS, targets=TARGETS, max_gib=1
        )
        assert not result.any()


def test_tiles_change_nothing() -> None:
    record = make_record((9, 20, 22), (15, 33, 31))
    logits = smooth_logits(9, (9, 20, 22))
    whole = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    chances = probabilities_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    for max_gib in (0.003, 0.0):
        tiled = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=max_gib)
        np.testing.assert_array_equal(tiled, whole)
    tiled_chances = probabilities_from_logits(
        logits, record, OPTIONS, targets=TARGETS, max_gib=0.003
    )
    np.testing.assert_allclose(tiled_chances, chances, atol=1e-6)


MEASURE = """
import sys
import test_preprocessing_invert as t
from peakmemory import peak_mib

record = t.make_record((16, 24, 24), (160, 320, 320))
warm_up = t.make_record((4, 4, 4), (5, 6, 7))
small = t.smooth_logits(3, (4, 4, 4))
t.label_map_from_logits(small, warm_up, t.OPTIONS, targets=t.TARGETS, max_gib=0.03)
logits = t.smooth_logits(int(sys.argv[1]), (16, 24, 24))
before = peak_mib()
t.label_map_from_logits(logits, record, t.OPTIONS, targets=t.TARGETS, max_gib=0.03)
print(peak_mib() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_labels() -> None:
    """All logits at full size would take 64 MiB a class here, the label map takes 16."""
    pytest.importorskip("resource", reason="no memory statistics on this system")
    peaks = []
    for classes in (4, 40):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(classes)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parent,
        )
        peaks.append(float(done.stdout))
    assert min(peaks) > 8, "it takes at least a part of the label map"
    assert max(peaks) < 2 * 16 + 50, peaks
    assert peaks[1] < peaks[0] + 25, peaks


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_crop_and_axes_are_undone(axes: Shape3) -> None:
    record = make_record((4, 5, 6), (4, 5, 6), margin=2, axes=axes)
    logits = smooth_logits(3, (4, 5, 6))
    expected = np.zeros((8, 9, 10), np.uint8)
    expected[2:6, 2:7, 2:8] = logits.argmax(0)
    result = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    np.testing.assert_array_equal(result.transpose(axes), expected)
    assert result.flags.c_contiguous
    chances = probabilities_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    assert chances.shape == (3, *result.shape)
    np.testing.assert_array_equal(chances.argmax(0), result)


def test_many_labels_need_wider_integers() -> None:
    for classes, kind in [(255, np.uint8), (256, np.uint16), (300, np.uint16)]:
        logits = np.zeros((classes, 1, 2, 2), np.float32)
        logits[-1, 0, 0] = 1
        result = label_map_from_logits(
            logits, make_record((1, 2, 2), (1, 2, 2)), OPTIONS, targets=TARGETS, max_gib=1
        )
        assert result.dtype == kind
        assert result.tolist() == [[[classes - 1] * 2, [0] * 2]]


@pytest.mark.parametrize(("working", "cropped", "spacing", "before"), CASES[:5])
def test_probabilities(working: Shape3, cropped: Shape3, spacing: Triple, before: Triple) -> None:
    record = make_record(working, cropped, spacing_mm=spacing, before_mm=before, margin=1)
    logits = smooth_logits(4, working)
    scores = reference(logits, record)
    exps = np.exp(scores - scores.max(0))
    result = probabilities_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[:, 1:-1, 1:-1, 1:-1], exps / exps.sum(0), atol=2e-5)
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-5)
    assert (result[0, 0] == 1).all()
    assert (result[1:, :, 0] == 0).all()


def test_2d_image_is_resampled_in_its_plane_whatever_its_spacing() -> None:
    record = make_record(
        (1, 20, 30), (1, 50, 30), before_mm=(1.0, 4.0, 0.5), spacing_mm=(1.0, 10.0, 0.5), is_2d=True
    )
    logits = smooth_logits(3, (1, 20, 30))
    expected = np.stack([nnunetroute.resize_image(c, (1, 50, 30), 1) for c in logits]).argmax(0)
    assert (
        label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1) == expected
    ).mean() > 0.999


def test_orders_of_the_plan_are_used() -> None:
    record = make_record((2, 2, 2), (2, 2, 4))
    logits = np.zeros((2, 2, 2, 2), np.float32)
    logits[0, ..., 0], logits[1, ..., 1] = 3, 1  # linear: the surface moves towards class 1
    linear = label_map_from_logits(logits, record, OPTIONS, targets=TARGETS, max_gib=1)
    nearest = label_map_from_logits(
        logits, record, Resampling(order_probabilities=0), targets=TARGETS, max_gib=1
    )
    assert linear[0, 0].tolist() == [0, 0, 0, 1]
    assert nearest[0, 0].tolist() == [0, 0, 1, 1]


def decoded(scores: np.ndarray) -> np.ndarray:
    """Return the label map of resized region logits, one region after the other."""
    result = np.zeros(scores.shape[1:], np.uint8)
    for region, score in zip(REGIONS.regions, scores, strict=True):
        result[score > 0] = REGIONS.index(region.value)
    return result


@pytest.mark.parametrize(("working", "cropped", "spacing", "before"), CASES)
def test_regions_are_written_in_their_order(
    working: Shape3, cropped: Shape3, spacing: Triple, before: Triple
) -> None:
    record = make_record(working, cropped, spacing_mm=spacing, before_mm=before)
    logits = smooth_logits(3, working)
    result = label_map_from_logits(logits, record, OPTIONS, targets=REGIONS, max_gib=1)
    scores = reference(logits, record)
    clear = (np.abs(scores) > 1e-4).all(0)  # float32 may put a score of 0 on either side
    np.testing.assert_array_equal(result[clear], decoded(scores)[clear])
    assert clear.mean() > 0.999
    for max_gib in (0.003, 0.0):
        tiled = label_map_from_logits(logits, record, OPTIONS, targets=REGIONS, max_gib=max_gib)
        np.testing.assert_array_equal(tiled, result)


def test_a_later_region_overwrites_and_may_write_a_smaller_value() -> None:
    regions = (
        Region(name="lesion", values=(7,), value=7),
        Region(name="organ", values=(2, 7), value=2),
    )
    labels = (Label(name="organ only", value=2), Label(name="lesion", value=7))
    targets = Targets(labels=labels, regions=regions)
    logits = np.array([[1, 1, -1, -1, 0], [1, -1, 1, -1, 0]], np.float32)[:, None, None]
    record = make_record((1, 1, 5), (1, 1, 5))
    result = label_map_from_logits(logits, record, OPTIONS, targets=targets, max_gib=1)
    assert result.tolist() == [[[1, 2, 1, 0, 0]]]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_probabilities_of_regions_are_sigmoids_and_0_outside(axes: Shape3) -> None:
    record = make_record((9, 20, 22), (15, 33, 31), margin=2, axes=axes)
    logits = smooth_logits(3, (9, 20, 22))
    result = probabilities_from_logits(logits, record, OPTIONS, targets=REGIONS, max_gib=0.003)
    working = result.transpose(0, *(1 + axis for axis in axes))
    expected = 1 / (1 + np.exp(-reference(logits, record)))
    np.testing.assert_allclose(working[:, 2:-2, 2:-2, 2:-2], expected, atol=1e-5)
    outside = np.ones(working.shape[1:], np.bool_)
    outside[2:-2, 2:-2, 2:-2] = False
    assert not working[:, outside].any()
    indices = label_map_from_logits(logits, record, OPTIONS, targets=REGIONS, max_gib=1)
    assert not indices.transpose(axes)[outside].any()


@pytest.mark.parametrize("targets", [TARGETS, REGIONS], ids=["labels", "regions"])
def test_the_size_of_parts_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, targets: Targets
) -> None:
    """Large ones are those of devices other than the CPU."""
    record = make_record((9, 20, 22), (9, 20, 22))
    logits = torch.from_numpy(smooth_logits(3, (9, 20, 22)))
    found = []
    for scores in (30, 1 << 10, 1 << 24):
        monkeypatch.setattr(tiles, "SCORES_AT_ONCE", scores)
        map_ = label_map_from_logits(logits, record, OPTIONS, targets=targets, max_gib=1)
        boxes = foreground_tiles(logits, record, OPTIONS, targets=targets, max_gib=1)
        found.append((map_, [values for _, values in boxes]))
    for map_, values in found[1:]:
        np.testing.assert_array_equal(map_, found[0][0])
        for one, other in zip(values, found[0][1], strict=True):
            np.testing.assert_array_equal(one, other)
