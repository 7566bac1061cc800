"""Resampling of a CT against scikit-image, which nnU-Net resamples with: same values, less time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import nnunetroute
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from targets import plain

from selfseg.phantoms import make_phantom
from selfseg.preprocessing.invert import label_map_from_logits
from selfseg.preprocessing.resample import resample_channel, resample_labels
from selfseg.records.geometry import Box, Geometry, Orientation, PreprocessedCase
from selfseg.records.preprocessing import Resampling

pytestmark = pytest.mark.bench

SHAPE, SPACING = (60, 256, 256), (3.0, 0.8, 0.8)
TARGET = (90, 205, 205)  # 2 mm x 1 mm x 1 mm
OPTIONS = Resampling()


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    case = make_phantom(np.random.default_rng(0), shape=SHAPE, spacing_mm=SPACING)
    return gaussian_filter(case.image, 0.5), case.label.astype(np.int16)


def seconds(work: Callable[[], np.ndarray], repeats: int = 1) -> tuple[float, np.ndarray]:
    """Return the best time and the result."""
    best, result = float("inf"), np.empty(0)
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


@pytest.mark.parametrize("axis", [None, 0], ids=["joint", "separate"])
def test_image(phantom: tuple[np.ndarray, np.ndarray], axis: int | None) -> None:
    image, _ = phantom
    ours, result = seconds(lambda: resample_channel(image, TARGET, axis, OPTIONS), repeats=3)
    theirs, expected = seconds(lambda: nnunetroute.resample(image, TARGET, axis, 3))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.ptp(image))
    sys.stdout.write(f"\nimage: {theirs / ours:.0f}x faster ({ours:.2f} s and {theirs:.2f} s)\n")
    assert theirs / ours >= 3


@pytest.mark.parametrize("axis", [None, 0], ids=["joint", "separate"])
def test_label_map(phantom: tuple[np.ndarray, np.ndarray], axis: int | None) -> None:
    _, label = phantom
    ours, result = seconds(lambda: resample_labels(label, TARGET, axis, OPTIONS), repeats=3)
    theirs, expected = seconds(lambda: nnunetroute.resample(label, TARGET, axis, 1, labels=True))
    np.testing.assert_array_equal(result, expected)
    sys.stdout.write(f"\nlabels: {theirs / ours:.0f}x faster ({ours:.2f} s and {theirs:.2f} s)\n")
    assert theirs / ours >= 3


def test_logits_back_to_the_image() -> None:
    working, classes = (60, 205, 205), 3
    noise = np.random.default_rng(0).normal(size=(classes, *working)).astype(np.float32)
    logits = np.stack([gaussian_filter(part, 4) for part in noise]) * 100
    record = PreprocessedCase(
        id="case",
        source="",
        native=Geometry(shape=SHAPE, spacing_mm=SPACING),
        orientation=Orientation(),
        axes=(0, 1, 2),
        crop=Box(lower=(0, 0, 0), upper=SHAPE),
        shape_before_crop=SHAPE,
        spacing_before_mm=SPACING,
        shape=working,
        spacing_mm=(3.0, 1.0, 1.0),
    )
    ours, result = seconds(
        lambda: label_map_from_logits(logits, record, OPTIONS, targets=plain(3), max_gib=1), 3
    )
    theirs, expected = seconds(
        lambda: np.stack([nnunetroute.resample(c, SHAPE, 0, 1) for c in logits]).argmax(0)
    )
    assert (result == expected).mean() >= 0.9999
    sys.stdout.write(f"\nlogits: {theirs / ours:.0f}x faster ({ours:.2f} s and {theirs:.2f} s)\n")
    assert theirs / ours >= 3
