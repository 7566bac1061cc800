"""Boxes and masks: against scipy and by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, find_objects

from selfseg.arrays import bounding_box, fill_holes, nonzero_box
from selfseg.records.geometry import Box

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
SEEDS, SHARES = st.integers(0, 1000), st.sampled_from([0.02, 0.3, 0.6, 0.8, 0.95])


@given(shape=SHAPES, share=SHARES, seed=SEEDS)
def test_bounding_box_is_that_of_scipy(
    shape: tuple[int, int, int], share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    (expected,) = find_objects(mask.astype(np.int8)) or [None]
    assert bounding_box(mask).slices == (expected or tuple(slice(0, n) for n in shape))


@settings(max_examples=200)
@given(shape=SHAPES, share=SHARES, seed=SEEDS)
def test_filled_holes_are_those_of_scipy(
    shape: tuple[int, int, int], share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    np.testing.assert_array_equal(fill_holes(mask), binary_fill_holes(mask))


@given(shape=SHAPES, share=SHARES, seed=SEEDS)
def test_nonzero_mask_is_filled_and_boxed(
    shape: tuple[int, int, int], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape)) * (rng.random((2, *shape)) < share / 2)
    mask, box = nonzero_box(image)
    if not image.any():
        assert mask.all()
        assert box.shape == shape
        return
    expected = binary_fill_holes((image != 0).any(axis=0))
    np.testing.assert_array_equal(mask, expected)
    assert box == bounding_box(expected)


def test_one_voxel_and_a_hole_that_is_open_to_the_border() -> None:
    image = np.zeros((1, 5, 6, 7))
    image[0, 2, 3, 4] = -1
    mask, box = nonzero_box(image)
    assert box == Box(lower=(2, 3, 4), upper=(3, 4, 5))
    assert mask.sum() == 1
    image = np.ones((1, 3, 5, 5))
    image[0, 1, 2, 2] = 0  # closed
    image[0, 1, 4, 4] = 0  # at the border
    mask, _ = nonzero_box(image)
    assert np.argwhere(~mask).tolist() == [[1, 4, 4]]


def test_holes_of_a_single_slice_are_open() -> None:
    """As in nnU-Net: in three dimensions a slice has no inside."""
    image = np.ones((1, 1, 5, 5))
    image[0, 0, 2, 2] = 0
    mask, _ = nonzero_box(image)
    assert not mask[0, 2, 2]
    assert mask.sum() == 24
