"""Predictions back to the image's grid: as resizing all logits in float64, then the maximum."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import nnunetroute
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from selfseg.preprocessing import invert
from selfseg.preprocessing.invert import label_map_from_logits, probabilities_from_logits
from selfseg.preprocessing.resample import separate_axis
from selfseg.records.geometry import Box, Geometry, Orientation, PreprocessedCase
from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3, Triple

OPTIONS = Resampling()
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


def gap(scores: np.ndarray) -> np.ndarray:
    """Return by how much the largest score exceeds the next."""
    second, first = np.sort(scores, axis=0)[-2:]
    return np.asarray(first - second)


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
    scores = reference(logits, record)
    result = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    assert result.dtype == np.uint8
    clear = gap(scores) > 1e-4  # rounding of float32 may decide equal scores otherwise
    np.testing.assert_array_equal(result[clear], scores.argmax(0)[clear])
    assert (result == scores.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kinds_of_logits(dtype: torch.dtype) -> None:
    record = make_record((10, 18, 20), (15, 25, 30))
    logits = torch.from_numpy(smooth_logits(5, (10, 18, 20))).to(dtype)
    scores = reference(logits.float().numpy(), record)
    result = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    clear = gap(scores) > 1e-4  # so few digits make many equal scores
    np.testing.assert_array_equal(result[clear], scores.argmax(0)[clear])
    assert clear.mean() > 0.999


def test_noise_has_a_surface_everywhere() -> None:
    record = make_record((8, 11, 13), (13, 16, 20))
    logits = np.random.default_rng(1).normal(size=(6, 8, 11, 13)).astype(np.float32)
    expected = reference(logits, record).argmax(0)
    result = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    assert (result == expected).mean() >= 0.9999


def test_a_third_class_can_win_between_two() -> None:
    logits = np.full((3, 1, 1, 2), -1.0, np.float32)
    logits[0, 0, 0, 0] = logits[1, 0, 0, 1] = 1.0
    logits[2] = 0.9
    record = make_record((1, 1, 2), (1, 1, 6))
    assert label_map_from_logits(logits, record, OPTIONS, max_gib=1).tolist() == [
        [[0, 0, 2, 2, 1, 1]]
    ]


def test_the_first_of_equal_classes_wins() -> None:
    logits = np.zeros((4, 2, 3, 3), np.float32)
    for shape in [(2, 3, 3), (5, 4, 7)]:
        result = label_map_from_logits(logits, make_record((2, 3, 3), shape), OPTIONS, max_gib=1)
        assert not result.any()


def test_tiles_change_nothing() -> None:
    record = make_record((9, 20, 22), (15, 33, 31))
    logits = smooth_logits(9, (9, 20, 22))
    whole = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    chances = probabilities_from_logits(logits, record, OPTIONS, max_gib=1)
    for max_gib in (0.003, 0.0):
        tiled = label_map_from_logits(logits, record, OPTIONS, max_gib=max_gib)
        np.testing.assert_array_equal(tiled, whole)
    tiled_chances = probabilities_from_logits(logits, record, OPTIONS, max_gib=0.003)
    np.testing.assert_allclose(tiled_chances, chances, atol=1e-6)


def test_memory_does_not_grow_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tables and scores have all classes; all logits at full size would be 64 × 8 MiB."""
    limit, record = 4.0, make_record((16, 24, 24), (80, 160, 160))
    sizes: list[float] = []
    for name in ("_table", "_scores"):
        monkeypatch.setattr(invert, name, measured(getattr(invert, name), sizes))
    for classes in (4, 64):
        logits = smooth_logits(classes, (16, 24, 24))
        tracemalloc.start()
        label_map_from_logits(logits, record, OPTIONS, max_gib=limit / 1024)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        assert peak < 2 * 2 + limit  # the label map, its copy, what NumPy holds of a tile
        assert max(sizes) < limit
        sizes.clear()


def measured(function: Callable[..., torch.Tensor], sizes: list[float]) -> object:
    """Note how many MiB each result has."""

    def noted(*args: object) -> torch.Tensor:
        result = function(*args)
        sizes.append(result.numel() * result.element_size() / 2**20)
        return result

    return noted


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_crop_and_axes_are_undone(axes: Shape3) -> None:
    record = make_record((4, 5, 6), (4, 5, 6), margin=2, axes=axes)
    logits = smooth_logits(3, (4, 5, 6))
    expected = np.zeros((8, 9, 10), np.uint8)
    expected[2:6, 2:7, 2:8] = logits.argmax(0)
    result = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    np.testing.assert_array_equal(result.transpose(axes), expected)
    assert result.flags.c_contiguous
    chances = probabilities_from_logits(logits, record, OPTIONS, max_gib=1)
    assert chances.shape == (3, *result.shape)
    np.testing.assert_array_equal(chances.argmax(0), result)


def test_many_labels_need_wider_integers() -> None:
    for classes, kind in [(255, np.uint8), (256, np.uint16), (300, np.uint16)]:
        logits = np.zeros((classes, 1, 2, 2), np.float32)
        logits[-1, 0, 0] = 1
        result = label_map_from_logits(
            logits, make_record((1, 2, 2), (1, 2, 2)), OPTIONS, max_gib=1
        )
        assert result.dtype == kind
        assert result.tolist() == [[[classes - 1] * 2, [0] * 2]]


@pytest.mark.parametrize(("working", "cropped", "spacing", "before"), CASES[:5])
def test_probabilities(working: Shape3, cropped: Shape3, spacing: Triple, before: Triple) -> None:
    record = make_record(working, cropped, spacing_mm=spacing, before_mm=before, margin=1)
    logits = smooth_logits(4, working)
    scores = reference(logits, record)
    exps = np.exp(scores - scores.max(0))
    result = probabilities_from_logits(logits, record, OPTIONS, max_gib=1)
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
    assert (label_map_from_logits(logits, record, OPTIONS, max_gib=1) == expected).mean() > 0.999


def test_orders_of_the_plan_are_used() -> None:
    record = make_record((2, 2, 2), (2, 2, 4))
    logits = np.zeros((2, 2, 2, 2), np.float32)
    logits[0, ..., 0], logits[1, ..., 1] = 3, 1  # linear: the surface moves towards class 1
    linear = label_map_from_logits(logits, record, OPTIONS, max_gib=1)
    nearest = label_map_from_logits(logits, record, Resampling(order_probabilities=0), max_gib=1)
    assert linear[0, 0].tolist() == [0, 0, 0, 1]
    assert nearest[0, 0].tolist() == [0, 0, 1, 1]
