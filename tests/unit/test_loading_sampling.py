from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import partial
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfseg.loading.sampling import (
    corner_around,
    draw_center,
    draw_location,
    forced_samples,
    position_limits,
    random_corner,
)

SIZES = st.tuples(st.integers(1, 60), st.integers(0, 40), st.integers(1, 80))


@pytest.mark.parametrize(
    ("batch", "forced"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (9, 3), (12, 4)]
)
def test_number_of_forced_samples_is_nnunets(batch: int, forced: int) -> None:
    assert {forced_samples(batch, 0.33, range(batch), step) for step in range(30)} == {forced}


@given(st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**40), st.data())
def test_parts_of_a_batch_have_the_forced_samples_of_the_whole(
    batch: int, share: float, first: int, data: st.DataObject
) -> None:
    """Whatever it is split into: in every step together, and over steps each its share."""
    split = data.draw(st.integers(1, batch - 1))
    whole, parts = range(batch), (range(split), range(split, batch))
    forced, in_all = batch - round(batch * (1 - share)), [0, 0]
    for steps, step in enumerate(range(first, first + 2 * batch), 1):
        found = [forced_samples(batch, share, part, step) for part in parts]
        assert sum(found) == forced_samples(batch, share, whole, step) == forced
        for index, part in enumerate(parts):
            expected = Fraction(len(part) * forced, batch)
            assert floor(expected) <= found[index] <= ceil(expected)
            in_all[index] += found[index]
            assert abs(in_all[index] - steps * expected) < 1
    assert in_all == [2 * len(part) * forced for part in parts]  # exact after `batch` steps


@pytest.mark.parametrize(
    ("loaded", "final", "size", "limits"),
    [
        (128, 128, 300, (0, 172)),
        (205, 128, 300, (-39, 134)),  # pad 77: floor(-77 / 2), 300 + 38 + 1 - 205
        (204, 128, 300, (-38, 134)),
        (73, 40, 30, (-22, -21)),  # pad 43, the image is smaller than the final patch
        (40, 40, 30, (-5, -5)),
        (1, 1, 9, (0, 8)),
    ],
)
def test_position_limits(loaded: int, final: int, size: int, limits: tuple[int, int]) -> None:
    assert position_limits(loaded, final, size) == limits


@given(SIZES)
def test_the_final_patch_stays_inside_or_covers_the_image(sizes: tuple[int, int, int]) -> None:
    final, more, size = sizes
    loaded = final + more
    low, high = position_limits(loaded, final, size)
    assert low <= high
    crop = (loaded - final) // 2
    for corner in (low + crop, high + crop):
        if size >= final:
            assert corner >= -1
            assert corner + final <= size + 1
        else:
            assert corner <= 1
            assert corner + final >= size - 1


@given(st.lists(SIZES, min_size=1, max_size=3), st.integers(0, 2**32), st.data())
def test_positions_are_within_limits_and_hold_the_voxel(
    sizes: list[tuple[int, int, int]], seed: int, data: st.DataObject
) -> None:
    final = [size[0] for size in sizes]
    loaded = [size[0] + size[1] for size in sizes]
    shape = [size[2] for size in sizes]
    voxel = [data.draw(st.integers(0, size - 1)) for size in shape]
    rng = np.random.default_rng(seed)
    for corner in (
        random_corner(loaded, final, shape, rng),
        corner_around(voxel, loaded, final, shape),
    ):
        for at, big, small, size in zip(corner, loaded, final, shape, strict=True):
            low, high = position_limits(big, small, size)
            assert low <= at <= high
    forced = corner_around(voxel, loaded, final, shape)
    assert all(
        at <= position < at + size for at, position, size in zip(forced, voxel, loaded, strict=True)
    )


def test_a_forced_patch_is_centered_unless_at_a_border() -> None:
    assert corner_around((50, 2, 98), (20, 20, 20), (20, 20, 20), (100, 100, 100)) == (40, 0, 80)


def test_random_positions_are_uniform() -> None:
    rng = np.random.default_rng(0)
    found = Counter(random_corner((4,), (4,), (8,), rng)[0] for _ in range(5000))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert min(found.values()) > 880


def test_classes_are_drawn_evenly_whatever_their_size() -> None:
    rng = np.random.default_rng(0)
    rows = [(label, index, 0) for label, count in ((1, 1000), (3, 10)) for index in range(count)]
    found = [draw_location((1000, 0, 10), rows.__getitem__, rng) for _ in range(4000)]
    classes = Counter(voxel[0] for voxel in found if voxel is not None)
    assert set(classes) == {1, 3}
    assert classes[1] == pytest.approx(2000, abs=130)
    assert {voxel[1] for voxel in found if voxel is not None and voxel[0] == 3} == set(range(10))


def test_no_foreground_gives_no_location() -> None:
    rng = np.random.default_rng(0)
    assert draw_location((), [].__getitem__, rng) is None
    assert draw_location((0, 0), [].__getitem__, rng) is None


def test_with_partial_annotation_every_patch_shows_some() -> None:
    rng = np.random.default_rng(0)
    rows = [(1, 0, 0)] * 3 + [(2, 0, 0)] * 2 + [(0, index, 0) for index in range(5)]
    draw = partial(draw_center, (3, 2), 5, rows.__getitem__, rng)
    assert {voxel[0] for _ in range(200) if (voxel := draw(forced=True))} == {1, 2}
    free = [draw(forced=False) for _ in range(200)]
    assert {voxel for voxel in free if voxel} == {(0, index, 0) for index in range(5)}
    assert None not in free


def test_without_foreground_a_forced_patch_shows_an_annotated_voxel_if_that_is_known() -> None:
    rng = np.random.default_rng(0)
    assert draw_center((0,), 1, [(4, 5, 6)].__getitem__, rng, forced=True) == (4, 5, 6)
    assert draw_center((0,), 0, [].__getitem__, rng, forced=True) is None
    assert draw_center((2,), 0, [(1, 1, 1)].__getitem__, rng, forced=False) is None
