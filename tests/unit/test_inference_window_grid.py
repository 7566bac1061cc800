"""Where windows lie and how much each counts: against nnU-Net's own rules, and in sum one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from selfseg.inference.window_grid import (
    make_grid,
    make_rounded_grid,
    rounded_weight,
    stepped_starts,
    tile_starts,
    window_profile,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [
        (110, 64, (0, 23, 46)),
        (432, 128, (0, 61, 122, 182, 243, 304)),
        (64, 64, (0,)),
        (65, 64, (0, 1)),
        (3, 1, (0, 1, 2)),
    ],
)
def test_positions_are_those_of_nnunet(size: int, patch: int, starts: tuple[int, ...]) -> None:
    assert tile_starts(size, patch, 0.5) == starts


@given(
    patch=st.integers(1, 40),
    extra=st.integers(0, 90),
    step=st.floats(0.05, 1.0),
)
def test_windows_cover_every_voxel_and_keep_the_step(patch: int, extra: int, step: float) -> None:
    starts = tile_starts(patch + extra, patch, step)
    assert starts[0] == 0
    assert starts[-1] == extra
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < gap <= math.ceil(max(step * patch, 1)) for gap in gaps)
    assert all(gap <= patch for gap in gaps)


def test_profile_is_the_filtered_impulse_of_nnunet() -> None:
    patch = (16, 24, 9)
    impulse = np.zeros(patch)
    impulse[tuple(p // 2 for p in patch)] = 1
    expected = ndimage.gaussian_filter(impulse, [p / 8 for p in patch], mode="constant")
    expected /= expected.max()
    z, y, x = (window_profile(p, 0.125) for p in patch)
    np.testing.assert_allclose(z[:, None, None] * y[:, None] * x, expected, atol=1e-12)


def test_profile_is_positive_and_can_be_flat() -> None:
    assert (window_profile(50, 0.01) > 0).all()
    np.testing.assert_array_equal(window_profile(5, 0.0), np.ones(5))


def nnunet_weight(patch: tuple[int, ...]) -> np.ndarray:
    """Return the map that nnU-Net multiplies with, float16."""
    impulse = np.zeros(patch)
    impulse[tuple(p // 2 for p in patch)] = 1
    weight = ndimage.gaussian_filter(impulse, [p / 8 for p in patch], mode="constant")
    weight = (weight / weight.max() * 10).astype(np.float16)
    weight[weight == 0] = weight[weight != 0].min()
    return np.asarray(weight)


@pytest.mark.parametrize("patch", [(40, 56, 40), (16, 32, 9), (1, 24, 24)])
def test_rounded_weights_are_those_of_nnunet(patch: tuple[int, int, int]) -> None:
    found = rounded_weight(patch, 0.125).numpy()
    np.testing.assert_array_equal(found, nnunet_weight(patch).astype(np.float32))
    assert found.min() >= 2**-24


@pytest.mark.parametrize(("size", "patch"), [(237, 12), (501, 12), (110, 64), (64, 64)])
def test_stepped_starts_round_the_distance_first(size: int, patch: int) -> None:
    count = math.ceil((size - patch) / (patch * 0.5)) + 1
    distance = (size - patch) / (count - 1) if count > 1 else 0.0
    expected = tuple(int(np.round(distance * i)) for i in range(count))
    assert stepped_starts(size, patch, 0.5) == expected


def test_the_two_roundings_of_starts_differ_where_a_start_is_a_half() -> None:
    assert stepped_starts(237, 12, 0.5) != tile_starts(237, 12, 0.5)


@pytest.mark.parametrize(
    ("shape", "patch"), [((30, 21, 16), (16, 8, 16)), ((5, 40, 24), (1, 24, 24))]
)
def test_rounded_shares_are_weights_over_their_sum(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    grid = make_rounded_grid(shape, patch, step=0.5, sigma=0.125)
    weight = nnunet_weight(patch).astype(float)
    total = np.zeros(shape)
    for index in grid.windows():
        total[grid.place(index)] += weight
    for index in grid.windows():
        expected = weight / total[grid.place(index)]
        np.testing.assert_allclose(grid.share(index, CPU), expected, rtol=1e-5)


def test_at_an_edge_of_the_image_rounded_weights_decide_otherwise() -> None:
    shape, patch = (32, 32, 48), (32, 32, 32)
    exact = make_grid(shape, patch, step=0.5, sigma=0.125).share((0, 0, 1), CPU)
    rounded = make_rounded_grid(shape, patch, step=0.5, sigma=0.125).share((0, 0, 1), CPU)
    assert rounded[0, 0, 0] > 10 * exact[0, 0, 0]
    torch.testing.assert_close(rounded[16, 16], exact[16, 16], rtol=5e-3, atol=0)


@settings(max_examples=30, deadline=None)
@given(
    patch=st.tuples(*[st.integers(1, 7)] * 3),
    extra=st.tuples(*[st.integers(0, 9)] * 3),
    step=st.floats(0.2, 1.0),
)
def test_shares_of_all_windows_add_up_to_one(
    patch: tuple[int, int, int], extra: tuple[int, int, int], step: float
) -> None:
    shape = tuple(p + e for p, e in zip(patch, extra, strict=True))
    grid = make_grid(shape, patch, step=step, sigma=0.125)
    total = torch.zeros(shape)
    windows = list(grid.windows())
    assert len(windows) == math.prod(len(starts) for starts in grid.starts)
    for index in windows:
        total[grid.place(index)] += grid.share(index, CPU)
    torch.testing.assert_close(total, torch.ones(shape))
