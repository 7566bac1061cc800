"""Resampling: the results of scikit-image and scipy, and the rule for the separate axis."""

from __future__ import annotations

from typing import Literal

import nnunetroute
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import map_coordinates, zoom

from selfseg.preprocessing.resample import (
    resample_channel,
    resample_labels,
    separate_axis,
    spline_blocks,
    target_shape,
)
from selfseg.preprocessing.taps import make_taps
from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3, Triple

OPTIONS = Resampling()
SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 40))
AXES = st.sampled_from([None, 0, 1, 2])
SEEDS = st.integers(0, 1000)


def random_image(shape: Shape3, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


def blobs(shape: Shape3, seed: int, values: int = 5) -> np.ndarray:
    """Return labels -1 … values - 2 in coarse random blocks, with surfaces and single voxels."""
    rng = np.random.default_rng(seed)
    small = rng.integers(-1, values - 1, [max(1, n // 3) for n in shape])
    large = zoom(small, [n / m for n, m in zip(shape, small.shape, strict=True)], order=0)
    noise = rng.random(large.shape) < 0.05
    labels = np.where(noise, rng.integers(-1, values - 1, large.shape), large)
    return np.asarray(labels, np.int16)


@pytest.mark.parametrize("order", [0, 1, 3, 5])
def test_matrix_is_the_spline_of_scipy(order: int) -> None:
    for old, new in [(1, 7), (7, 1), (2, 5), (40, 13), (13, 40), (150, 149), (97, 300)]:
        values = np.random.default_rng(old).normal(size=(old, 3))
        expected = zoom(values, (new / old, 1), order=order, mode="nearest", grid_mode=True)
        matrix = np.zeros((new, old))
        for block in spline_blocks(old, new, order):
            matrix[block.rows, block.columns] = block.weights
        np.testing.assert_allclose(matrix @ values, expected, rtol=0, atol=2e-6)


def test_nearest_is_that_of_scipy_for_all_small_sizes() -> None:
    for old in range(1, 60):
        for new in range(1, 60):
            where = float(old) / new * (np.arange(new) + 0.5) - 0.5
            expected = map_coordinates(np.arange(float(old)), [where], order=0, mode="nearest")
            assert (make_taps(old, new, 0).index[:, 0] == expected).all(), (old, new)


@settings(max_examples=120, deadline=None)
@given(old=SHAPES, new=SHAPES, axis=AXES, seed=SEEDS)
def test_images_equal_skimage(old: Shape3, new: Shape3, axis: int | None, seed: int) -> None:
    image = random_image(old, seed)
    expected = nnunetroute.resample(image, new, axis, 3)
    result = resample_channel(image, new, axis, OPTIONS)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * float(np.abs(image).max()))


@settings(max_examples=150, deadline=None)
@given(old=SHAPES, new=SHAPES, axis=AXES, seed=SEEDS)
def test_labels_equal_skimage(old: Shape3, new: Shape3, axis: int | None, seed: int) -> None:
    labels = blobs(old, seed)
    expected = nnunetroute.resample(labels, new, axis, 1, labels=True)
    np.testing.assert_array_equal(resample_labels(labels, new, axis, OPTIONS), expected)


@pytest.mark.parametrize("factor", [2, 1.5, 3, 0.5, 2 / 3, 1.25])
def test_ties_are_decided_as_skimage_does(factor: float) -> None:
    """Half-way weights lie exactly between two labels: noise labels make many of them."""
    labels = np.random.default_rng(0).integers(-1, 4, (24, 30, 36)).astype(np.int16)
    z, y, x = (round(n * factor) for n in labels.shape)
    expected = nnunetroute.resample(labels, (z, y, x), None, 1, labels=True)
    np.testing.assert_array_equal(resample_labels(labels, (z, y, x), None, OPTIONS), expected)


def test_many_labels_and_negative_outside() -> None:
    labels = blobs((20, 30, 30), 3, values=120)
    expected = nnunetroute.resample(labels, (31, 41, 23), None, 1, labels=True)
    np.testing.assert_array_equal(resample_labels(labels, (31, 41, 23), None, OPTIONS), expected)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_no_value_beyond_the_input(axis: int | None) -> None:
    image = np.zeros((9, 10, 11), np.float32)
    image[3:6, 3:7, 3:8] = 1.0
    result = resample_channel(image, (15, 17, 19), axis, OPTIONS)
    assert result.min() == 0.0
    assert result.max() == 1.0


def test_range_is_that_of_each_slice_along_the_separate_axis() -> None:
    image = np.zeros((2, 12, 12), np.float32)
    image[0, 4:8, 4:8] = 1.0
    image[1, 4:8, 4:8] = 100.0
    result = resample_channel(image, (2, 23, 23), 0, OPTIONS)
    assert result[0].max() == 1.0
    assert result[1].max() == 100.0


def test_annotation_that_ends_neither_adds_nor_wears_off_foreground() -> None:
    """A slanted rod of which every second slice is annotated, resampled along all axes."""
    z, y, x = np.ogrid[:24, :32, :32]
    whole = (np.hypot(y - 14 - 0.2 * z, x - 16) < 7).astype(np.int16)
    partial = whole.copy()
    partial[1::2] = 2
    expected = resample_labels(whole, (30, 40, 40), None, OPTIONS)
    result = resample_labels(partial, (30, 40, 40), None, OPTIONS, ignore=2)
    known = result != 2
    assert 0.3 < known.mean() < 0.5
    wrong = [int((known & (result == a) & (expected == b)).sum()) for a, b in ((0, 1), (1, 0))]
    assert wrong == [0, 0]
    assert (known & (expected == 1)).sum() > 2000


def test_ignoring_changes_nothing_where_all_is_annotated() -> None:
    labels = blobs((12, 20, 20), 5)
    expected = resample_labels(labels, (17, 27, 31), None, OPTIONS)
    found = resample_labels(labels, (17, 27, 31), None, OPTIONS, ignore=9)
    np.testing.assert_array_equal(found, expected)


def test_same_shape_is_returned_untouched() -> None:
    image, labels = random_image((3, 4, 5), 0), blobs((3, 4, 5), 0)
    assert resample_channel(image, (3, 4, 5), None, OPTIONS) is image
    assert resample_labels(labels, (3, 4, 5), None, OPTIONS) is labels


def test_linear_along_the_separate_axis_if_planned() -> None:
    image = np.broadcast_to(np.arange(4.0, dtype=np.float32)[:, None, None], (4, 6, 6))
    options = Resampling(order_separate=1)
    result = resample_channel(np.ascontiguousarray(image), (8, 6, 6), 0, options)
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(result[:, 2, 2], expected, atol=1e-6)
    labels = np.zeros((4, 2, 2), np.int16)
    labels[2:] = 1
    assert resample_labels(labels, (8, 2, 2), 0, options)[:, 0, 0].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("current", "new", "expected"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),  # the current spacing decides first
        ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), 1),  # then the new one
        ((5.0, 1.0, 1.0), (1.0, 1.0, 5.0), 0),  # current, although the new one is coarse too
        ((5.0, 5.0, 1.0), (1.0, 1.0, 5.0), None),  # a tie of the current one is joint
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # exactly 3 does not exceed it
        ((3.01, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (4.0, 4.0, 1.0), None),
        ((1.0, 0.9, 4.0), (1.0, 1.0, 1.0), 2),
    ],
)
def test_rule_of_the_separate_axis(current: Triple, new: Triple, expected: int | None) -> None:
    assert separate_axis(current, new, OPTIONS) == expected


def test_first_axis_of_a_2d_image_is_separate() -> None:
    assert separate_axis((1.0, 5.0, 1.0), (1.0, 5.0, 1.0), OPTIONS, is_2d=True) == 0


def test_target_shape_rounds_half_to_even_and_never_vanishes() -> None:
    assert target_shape((5, 3, 7), (1.0, 1.0, 0.5), (2.0, 2.0, 0.5)) == (2, 2, 7)  # 2.5, 1.5, 7
    assert target_shape((1, 10, 10), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 10, 10)
    assert target_shape((113, 229, 310), (5.0, 0.79, 0.79), (3.3, 0.71, 0.8)) == (171, 255, 306)


def test_orders_that_are_not_made_are_refused() -> None:
    """Label maps and probabilities are resampled by nearest or linear taps only."""
    for name in ("order_label", "order_probabilities", "order_separate"):
        with pytest.raises(ValidationError):
            Resampling.model_validate({name: 3})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("axis", [None, 1])
def test_other_orders_of_the_plan(order: Literal[0, 1], axis: int | None) -> None:
    options = Resampling(order_image=order, order_label=order)
    image, labels = random_image((9, 14, 12), 4), blobs((9, 14, 12), 4)
    for new in [(13, 10, 17), (6, 21, 12)]:
        expected = nnunetroute.resample(image, new, axis, order)
        result = resample_channel(image, new, axis, options)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(image).max())
        expected = nnunetroute.resample(labels, new, axis, order, labels=True)
        np.testing.assert_array_equal(resample_labels(labels, new, axis, options), expected)
