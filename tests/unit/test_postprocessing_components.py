"""Components, their volumes and holes of masks, against counts made by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.postprocessing.components import (
    component_volumes_ml,
    filled,
    largest_component,
    without_small_components,
)
from selfseg.records.serial import Triple

Mask = npt.NDArray[np.bool_]
CUBIC: Triple = (1.0, 1.0, 1.0)
NEIGHBORS = [step for step in product((-1, 0, 1), repeat=3) if any(step)]


def voxels(*places: tuple[int, int, int], shape: tuple[int, int, int] = (5, 5, 5)) -> Mask:
    """Return a mask of some voxels."""
    mask = np.zeros(shape, np.bool_)
    for place in places:
        mask[place] = True
    return mask


def shell(size: int) -> Mask:
    """Return the surface of a cube of `size` voxels in a mask with a margin of one."""
    mask = np.zeros((size + 2,) * 3, np.bool_)
    mask[1:-1, 1:-1, 1:-1] = True
    mask[2:-2, 2:-2, 2:-2] = False
    return mask


@pytest.mark.parametrize("step", NEIGHBORS)
def test_faces_edges_and_corners_join(step: tuple[int, int, int]) -> None:
    other = tuple(2 + by for by in step)
    pair = voxels((2, 2, 2), (other[0], other[1], other[2]))
    assert np.array_equal(component_volumes_ml(pair, CUBIC), [0.002])
    assert np.array_equal(largest_component(pair), pair)
    assert np.array_equal(without_small_components(pair, 0.002, CUBIC), pair)


@pytest.mark.parametrize("gap", [(0, 0, 2), (0, 2, 1), (2, 2, 2), (2, 1, 1)])
def test_what_does_not_touch_is_apart(gap: tuple[int, int, int]) -> None:
    pair = voxels((1, 1, 1), (1 + gap[0], 1 + gap[1], 1 + gap[2]))
    assert np.array_equal(component_volumes_ml(pair, CUBIC), [0.001, 0.001])


def test_corners_join_in_a_picture() -> None:
    mask = np.eye(4, dtype=np.bool_)[None]
    assert np.array_equal(component_volumes_ml(mask, CUBIC), [0.004])


def test_the_largest_has_most_voxels_wherever_it_lies() -> None:
    small, large = voxels((0, 0, 0), (0, 0, 1)), voxels((4, 4, 4), (3, 3, 3), (4, 3, 3))
    assert np.array_equal(largest_component(small | large), large)
    turned = (small | large)[::-1, ::-1, ::-1]
    assert np.array_equal(largest_component(turned), large[::-1, ::-1, ::-1])


def test_of_equals_the_first_stays() -> None:
    mask = voxels((0, 0, 0), (4, 4, 4))
    assert np.array_equal(largest_component(mask), voxels((0, 0, 0)))


def test_volumes_are_millilitres() -> None:
    # A voxel of 5 mm × 0.5 mm × 0.4 mm has 1 mm³, a thousandth of a millilitre.
    mask = voxels((0, 0, 0), (2, 2, 2), (2, 2, 3), (3, 3, 4))
    assert component_volumes_ml(mask, (5.0, 0.5, 0.4)) == pytest.approx([0.003, 0.001])
    cube = np.ones((10, 10, 10), np.bool_)
    assert component_volumes_ml(cube, CUBIC) == pytest.approx([1.0])
    assert component_volumes_ml(cube, (10.0, 10.0, 10.0)) == pytest.approx([1000.0])


def test_a_component_of_just_the_volume_stays() -> None:
    spacing = (5.0, 0.5, 0.25)  # 0.625 mm³: all numbers are exact
    one, two, three = (0, 0, 0), ((2, 0, 0), (2, 0, 1)), ((4, 0, 0), (4, 0, 1), (4, 1, 2))
    mask = voxels(one, *two, *three)
    for voxel_count, kept in (
        (0.0, mask),
        (1, mask),
        (2, voxels(*two, *three)),
        (3, voxels(*three)),
        (4, voxels()),
    ):
        border = voxel_count * 0.625 / 1000
        assert np.array_equal(without_small_components(mask, border, spacing), kept)
    above = np.nextafter(2 * 0.625 / 1000, 1)
    assert np.array_equal(without_small_components(mask, above, spacing), voxels(*three))


def test_every_axis_of_the_spacing_counts() -> None:
    mask = voxels((1, 1, 1))
    for spacing in ((1000.0, 1.0, 1.0), (1.0, 1000.0, 1.0), (1.0, 1.0, 1000.0)):
        assert np.array_equal(without_small_components(mask, 1.0, spacing), mask)
        assert not without_small_components(mask, 1.001, spacing).any()


@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_closed_shell_becomes_a_cube(size: int) -> None:
    mask = shell(size)
    assert mask.sum() == size**3 - (size - 2) ** 3
    assert filled(mask).sum() == size**3


def test_a_hole_in_the_shell_opens_it() -> None:
    mask = shell(4)
    mask[1, 2, 2] = False  # in a face: a path of faces leads out
    assert np.array_equal(filled(mask), mask)


def test_an_edge_that_is_missing_does_not_open_the_shell() -> None:
    mask = shell(4)
    mask[1, 1, :] = False  # only paths over edges lead out
    assert filled(mask).sum() == mask.sum() + 2**3


def test_what_the_border_of_the_image_closes_is_no_hole() -> None:
    mask = shell(4)[2:]
    assert np.array_equal(filled(mask), mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_of_a_slice_are_those_in_its_plane(axis: int) -> None:
    ring = np.ones((5, 5), np.bool_)
    ring[1:-1, 1:-1] = False
    expected = np.pad(np.ones((5, 5), np.bool_), 1)
    mask = np.expand_dims(np.pad(ring, 1), axis)
    assert np.array_equal(filled(mask), np.expand_dims(expected, axis))
    ring[0, 2] = False
    opened = np.expand_dims(np.pad(ring, 1), axis)
    assert np.array_equal(filled(opened), opened)


def test_a_ring_in_a_volume_has_no_hole() -> None:
    mask = np.zeros((3, 5, 5), np.bool_)
    mask[1] = True
    mask[1, 1:-1, 1:-1] = False
    assert np.array_equal(filled(mask), mask)
    assert np.array_equal(filled(mask[:2]), mask[:2])


def test_a_line_has_no_holes() -> None:
    line = np.array([True, False, True]).reshape(1, 1, 3)
    assert np.array_equal(filled(line), line)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 5)])
@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_stay(shape: tuple[int, ...], value: bool) -> None:
    mask = np.full(shape, value)
    assert np.array_equal(largest_component(mask), mask)
    assert np.array_equal(without_small_components(mask, 0.0, CUBIC), mask)
    assert np.array_equal(filled(mask), mask)
    assert component_volumes_ml(mask, CUBIC).sum() == pytest.approx(mask.sum() / 1000)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.1, 0.6), st.integers(1, 30))
def test_components_are_kept_whole_or_not_at_all(seed: int, density: float, least: int) -> None:
    mask = np.random.default_rng(seed).random((4, 6, 7)) < density
    sizes = np.round(component_volumes_ml(mask, CUBIC) * 1000)
    kept = without_small_components(mask, least * 0.001, CUBIC)
    assert not (kept & ~mask).any()
    assert kept.sum() == sizes[sizes >= least].sum()
    assert largest_component(mask).sum() == sizes.max(initial=0)
    assert np.all(np.diff(sizes) <= 0)
    whole = filled(mask)
    assert not (mask & ~whole).any()
    assert np.array_equal(filled(whole), whole)
