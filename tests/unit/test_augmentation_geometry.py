from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from batchgenerators.augmentations.utils import (
    create_zero_centered_coordinate_mesh,
    rotate_coords_2d,
    rotate_coords_3d,
    scale_coords,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from selfseg.augmentation.draw import SampleDraw
from selfseg.augmentation.geometry import (
    gaussian_kernel,
    loaded_patch,
    low_resolution_table,
    low_shape,
    mirrored_indices,
    sampling_matrix,
)

ANGLES = st.floats(-np.pi, np.pi)
SCALES = st.one_of(st.none(), st.floats(0.5, 2.0))


@st.composite
def spatial_draws(make: st.DrawFn) -> tuple[SampleDraw, tuple[int, ...]]:
    dims = make(st.integers(2, 3))
    dummy = dims == 3 and make(st.booleans())
    count = 1 if dummy or dims == 2 else 3
    angles = make(st.one_of(st.none(), st.tuples(*[ANGLES] * count)))
    patch = tuple(make(st.integers(4, 20)) for _ in range(dims))
    return SampleDraw(angles=angles, scale=make(SCALES), dummy_2d=dummy), patch


@given(spatial_draws())
@settings(deadline=None)
def test_no_output_voxel_looks_outside_the_loaded_patch(
    case: tuple[SampleDraw, tuple[int, ...]],
) -> None:
    draw, patch = case
    loaded = loaded_patch(draw, patch)
    matrix = sampling_matrix(draw, len(patch))
    for corner in itertools.product(*[(-(size - 1) / 2, (size - 1) / 2) for size in patch]):
        source = matrix @ np.array(corner) + (np.array(loaded) - 1) / 2
        assert (source >= -1e-3).all()
        assert (source <= np.array(loaded) - 1 + 1e-3).all()
    assert all(big >= size for big, size in zip(loaded, patch, strict=True))
    if draw.dummy_2d:
        assert loaded[0] == patch[0]


@given(spatial_draws())
@settings(deadline=None)
def test_no_voxel_is_loaded_without_need(case: tuple[SampleDraw, tuple[int, ...]]) -> None:
    draw, patch = case
    half = (np.array(patch) - 1) / 2
    reach = np.abs(sampling_matrix(draw, len(patch))) @ half
    for size, need, loaded in zip(patch, reach, loaded_patch(draw, patch), strict=True):
        assert loaded <= max(size, 2 * need + 2)


def test_only_spatial_samples_load_more() -> None:
    assert loaded_patch(SampleDraw(gamma=(1.2,)), (40, 56, 40)) == (40, 56, 40)
    assert loaded_patch(SampleDraw(scale=0.8), (40, 56, 40)) == (40, 56, 40)
    assert loaded_patch(SampleDraw(scale=1.4), (41, 51, 31)) == (57, 71, 43)
    quarter = SampleDraw(angles=(0.0, 0.0, np.pi / 2))
    assert loaded_patch(quarter, (10, 30, 20)) == (30, 30, 20)
    assert loaded_patch(SampleDraw(angles=(np.pi / 2,), dummy_2d=True), (5, 30, 20)) == (5, 30, 30)


def test_matrix_is_the_rotation_of_batchgenerators_transposed() -> None:
    angles = (0.3, -0.5, 1.1)
    mesh = create_zero_centered_coordinate_mesh((3, 4, 5)).reshape(3, -1)
    ours = sampling_matrix(SampleDraw(angles=angles, scale=1.3), 3)
    assert np.linalg.det(ours) == pytest.approx(1.3**3)
    assert ours @ ours.T == pytest.approx(1.69 * np.eye(3))
    # Angles about one axis at a time agree with batchgenerators up to the sense of rotation.
    for axis in range(3):
        single = [0.0, 0.0, 0.0]
        single[axis] = 0.4
        theirs = scale_coords(rotate_coords_3d(mesh.copy(), *single), 1.3)
        turned = [
            sampling_matrix(SampleDraw(angles=tuple(sign * a for a in single), scale=1.3), 3) @ mesh
            for sign in (1, -1)
        ]
        assert any(np.allclose(theirs, ours) for ours in turned)
    flat = create_zero_centered_coordinate_mesh((4, 5)).reshape(2, -1)
    theirs = rotate_coords_2d(flat.copy(), 0.4)
    assert any(
        np.allclose(theirs, sampling_matrix(SampleDraw(angles=(angle,)), 2) @ flat)
        for angle in (0.4, -0.4)
    )


def test_scale_comes_first_and_the_first_axis_stays_in_dummy_2d() -> None:
    matrix = sampling_matrix(SampleDraw(angles=(0.2,), scale=1.2, dummy_2d=True), 3)
    assert matrix[0].tolist() == [1, 0, 0]
    assert matrix[:, 0].tolist() == [1, 0, 0]
    assert np.linalg.norm(matrix[1]) == pytest.approx(1.2)


@pytest.mark.parametrize(("sigma", "length"), [(0.5, 5), (0.7, 5), (0.8, 5), (0.95, 7), (1.0, 7)])
def test_gaussian_kernel(sigma: float, length: int) -> None:
    kernel = gaussian_kernel(sigma)
    assert len(kernel) == length
    assert kernel.sum() == pytest.approx(1)
    impulse = np.zeros(31)
    impulse[15] = 1
    reference = ndimage.gaussian_filter1d(impulse, sigma, radius=length // 2)
    assert kernel == pytest.approx(reference[15 - length // 2 : 16 + length // 2], abs=1e-6)


@pytest.mark.parametrize(("size", "low"), [(16, 9), (40, 27), (17, 17), (56, 28)])
def test_low_resolution_table_is_torchs(size: int, low: int) -> None:
    values = torch.rand(1, 1, size, generator=torch.Generator().manual_seed(size))
    small = torch.nn.functional.interpolate(values, size=low, mode="nearest-exact")
    expected = torch.nn.functional.interpolate(small, size=size, mode="linear")[0, 0].numpy()
    below, above, share = low_resolution_table(size, low)
    line = values[0, 0].numpy()
    assert line[below] * (1 - share) + line[above] * share == pytest.approx(expected, abs=1e-5)


@given(st.integers(1, 40), st.floats(0.3, 1.0))
@settings(deadline=None)
def test_low_resolution_table_is_nearest_down_and_linear_up(size: int, zoom: float) -> None:
    low = low_shape((size,), zoom, keep_first=False)[0]
    values = torch.rand(1, 1, size, generator=torch.Generator().manual_seed(size))
    # nearest-exact in whole numbers: torch's float32 scale misses some voxels that lie on a border.
    nearest = [min((2 * index + 1) * size // (2 * low), size - 1) for index in range(low)]
    small = values[:, :, nearest]
    expected = torch.nn.functional.interpolate(small, size=size, mode="linear")[0, 0].numpy()
    below, above, share = low_resolution_table(size, low)
    line = values[0, 0].numpy()
    assert line[below] * (1 - share) + line[above] * share == pytest.approx(expected, abs=1e-5)


def test_low_shape() -> None:
    assert low_shape((10, 11, 3), 0.5, keep_first=False) == (5, 6, 2)
    assert low_shape((10, 11, 3), 0.5, keep_first=True) == (10, 6, 2)
    assert low_shape((1, 1), 0.3, keep_first=False) == (1, 1)


@pytest.mark.parametrize("size", [2, 3, 5, 9])
@pytest.mark.parametrize("shift", [-3, -1, 0, 2, 3])
def test_mirrored_indices_are_numpys_reflection(size: int, shift: int) -> None:
    padded = np.pad(np.arange(size), 3, mode="reflect")
    assert mirrored_indices(size, shift).tolist() == padded[3 + shift : 3 + shift + size].tolist()


def test_mirrored_indices_of_one_voxel() -> None:
    assert mirrored_indices(1, 2).tolist() == [0]
