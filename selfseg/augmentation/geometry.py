"""Geometry of the drawn transforms: sampling matrix, patch to load, kernels and index tables.

Everything here is small and computed with numpy; both backends take these numbers, so that they
differ only in how they apply them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from selfseg.augmentation.draw import Hidden, SampleDraw

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


def sampling_matrix(draw: SampleDraw, dims: int) -> Matrix:
    """Return the matrix from an output voxel's offset to its source's, both from the centers.

    Voxel space, spacing ignored: scale first, then rotation about axis 0, 1 and 2.
    """
    scale = 1.0 if draw.scale is None else draw.scale
    matrix = np.eye(dims) * scale
    if draw.dummy_2d:
        matrix[0, 0] = 1.0
    if draw.angles is None:
        return matrix
    if len(draw.angles) == 1:
        return _plane_rotation(draw.angles[0], dims, (dims - 2, dims - 1)) @ matrix
    for angle, plane in zip(draw.angles, ((1, 2), (0, 2), (0, 1)), strict=True):
        matrix = _plane_rotation(angle, dims, plane) @ matrix
    return matrix


def loaded_patch(draw: SampleDraw, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that must be loaded so that no output voxel looks outside of it.

    Equals the final patch unless this very sample is rotated or enlarged; nnU-Net loads a patch
    that covers every angle for all samples, four times the voxels at 30 degrees in 3D.
    """
    if not draw.is_spatial:
        return patch
    half = (np.asarray(patch, dtype=float) - 1.0) / 2.0
    reach = np.abs(sampling_matrix(draw, len(patch))) @ half
    # A thousandth of a voxel forgives the float error of a sum that is whole in exact arithmetic.
    needed = [math.ceil(2.0 * extent - 1e-3) + 1 for extent in reach]
    return tuple(max(size, need) for size, need in zip(patch, needed, strict=True))


def hidden_distances(hidden: Hidden, patch: tuple[int, ...]) -> list[Weights]:
    """Return for each axis what it adds to the distance from a hidden slab's middle, in voxels.

    Each can be broadcast over the patch; a voxel is hidden where their sum is at most the half
    width, up or down.
    """
    parts = []
    for axis, (size, share) in enumerate(zip(patch, hidden.normal, strict=True)):
        places = share * (np.arange(size) - (size - 1) / 2)
        parts.append(places.reshape([-1 if a == axis else 1 for a in range(len(patch))]))
    parts[0] = parts[0] - hidden.offset
    return [part.astype(np.float32) for part in parts]


def gaussian_kernel(sigma: float) -> Weights:
    """Return a normalized Gaussian of odd length, the odd neighbor of `round(6 sigma + 0.5)`."""
    radius = round(6.0 * sigma + 0.5) // 2
    offsets = np.arange(-radius, radius + 1, dtype=float)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights: Weights = (kernel / kernel.sum()).astype(np.float32)
    return weights


def low_shape(shape: tuple[int, ...], zoom: float, *, keep_first: bool) -> tuple[int, ...]:
    """Return the shape of the low-resolution image; `keep_first` leaves axis 0 as it is."""
    return tuple(
        size if keep_first and axis == 0 else max(1, round(size * zoom))
        for axis, size in enumerate(shape)
    )


def low_resolution_table(size: int, low: int) -> tuple[Indices, Indices, Weights]:
    """Return how each voxel of an axis is blended after nearest down- and linear upsampling.

    Returns:
        Index of the lower neighbor, of the upper neighbor, and the upper neighbor's weight, each
        of length `size`; indices are of the original axis.
    """
    nearest = np.minimum(np.floor((np.arange(low) + 0.5) * size / low).astype(np.int64), size - 1)
    position = np.clip((np.arange(size) + 0.5) * low / size - 0.5, 0.0, low - 1.0)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, low - 1)
    return nearest[below], nearest[above], (position - below).astype(np.float32)


def mirrored_indices(size: int, shift: int) -> Indices:
    """Return `i + shift` for each voxel of an axis, reflected at the centers of the end voxels."""
    if size == 1:
        return np.zeros(1, dtype=np.int64)
    period = 2 * (size - 1)
    position = (np.arange(size) + shift) % period
    return np.minimum(position, period - position).astype(np.int64)


def _plane_rotation(angle: float, dims: int, plane: tuple[int, int]) -> Matrix:
    matrix = np.eye(dims)
    first, second = plane
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second] = -math.sin(angle)
    matrix[second, first] = math.sin(angle)
    return matrix
