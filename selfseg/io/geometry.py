"""Canonical orientation: the signed permutation of axes that is closest to Z, Y, X in LPS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.serial import Shape3, Triple

# Two grids are one if no voxel center lies further from its twin than this share of the smallest
# voxel edge: above what rounding to float32 or to four decimals does over 500 voxels, and far
# below what any label or score could notice.
GRID_TOLERANCE = 0.05

# Generic weights (tiny beside the cosines) decide between equally close axes, as at exactly 45
# degrees, so that float noise cannot, and so that the stored order of the axes does not matter.
_TIE_WEIGHTS = 1e-6 * np.sqrt(np.array([[2.0, 3, 5], [7, 11, 13], [17, 19, 23]]))

# Columns are the world directions (x, y, z in LPS) that canonical Z, Y, X grow towards.
_CANONICAL = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])

_SIGNED_PERMUTATIONS = tuple(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)


def closest_orientation(native: Geometry) -> Orientation:
    """Return the best of all 48 signed permutations: the largest sum of cosines."""
    direction = np.array(native.direction)
    weights = _CANONICAL + _TIE_WEIGHTS

    def closeness(candidate: tuple[tuple[int, ...], tuple[bool, ...]]) -> float:
        permutation, flips = candidate
        signs = np.where(flips, -1.0, 1.0)
        return float((direction[:, list(permutation)] * signs * weights).sum())

    permutation, flips = max(_SIGNED_PERMUTATIONS, key=closeness)
    return Orientation(
        permutation=(permutation[0], permutation[1], permutation[2]),
        flips=(flips[0], flips[1], flips[2]),
    )


def to_canonical(array: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """Return a view of a native (…, z, y, x) array in canonical axes."""
    lead = array.ndim - 3
    moved = array.transpose(*range(lead), *(lead + axis for axis in orientation.permutation))
    return np.flip(moved, _flipped_axes(orientation, lead))


def to_native(array: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """Return a view of a canonical (z, y, x) array in native axes."""
    flipped = np.flip(array, _flipped_axes(orientation, 0))
    return flipped.transpose(*np.argsort(orientation.permutation))


def canonical_geometry(native: Geometry, orientation: Orientation) -> Geometry:
    """Return the geometry of the array that `to_canonical` gives."""
    order = orientation.permutation
    shape: Shape3 = (native.shape[order[0]], native.shape[order[1]], native.shape[order[2]])
    spacing = np.array(native.spacing_mm)[list(order)]
    direction = np.array(native.direction)[:, list(order)]
    origin = np.array(native.origin_mm)
    for axis, flip in enumerate(orientation.flips):
        if flip:
            origin = origin + direction[:, axis] * spacing[axis] * (shape[axis] - 1)
            direction[:, axis] *= -1
    return Geometry(
        shape=shape,
        spacing_mm=triple(spacing),
        origin_mm=triple(origin),
        direction=(triple(direction[0]), triple(direction[1]), triple(direction[2])),
        is_2d=native.is_2d,
    )


def grid_differences(a: Geometry, b: Geometry) -> list[str]:
    """Return what differs between two grids beyond float noise, with numbers; empty if nothing.

    Spacing, origin and direction count as equal while the difference moves no voxel center by
    more than `GRID_TOLERANCE` of the smallest voxel edge.
    """
    if a.shape != b.shape:
        return [f"size {_joined(a.shape)} and {_joined(b.shape)} voxels (Z×Y×X)"]
    allowed_mm = GRID_TOLERANCE * min(*a.spacing_mm, *b.spacing_mm)
    steps = np.maximum(np.array(a.shape) - 1, 1)
    spacing = np.array([a.spacing_mm, b.spacing_mm])
    direction = np.array([a.direction, b.direction])
    turned_mm = np.linalg.norm(direction[0] - direction[1], axis=0) * steps * spacing.max(axis=0)
    differences = []
    if np.any(np.abs(spacing[0] - spacing[1]) * steps > allowed_mm):
        differences.append(
            f"spacing {_joined(a.spacing_mm)} and {_joined(b.spacing_mm)} mm (Z×Y×X)"
        )
    if np.linalg.norm(np.array(a.origin_mm) - np.array(b.origin_mm)) > allowed_mm:
        differences.append(
            f"origin {_listed(a.origin_mm)} and {_listed(b.origin_mm)} mm (x, y, z in LPS)"
        )
    if np.any(turned_mm > allowed_mm):
        differences.append(f"direction {_rows(a.direction)} and {_rows(b.direction)}")
    return differences


def triple(values: Sequence[float] | NDArray[np.floating]) -> Triple:
    """Return three numbers as a tuple of Python floats (no negative zero)."""
    first, second, third = (float(value) + 0.0 for value in values)
    return (first, second, third)


def _flipped_axes(orientation: Orientation, lead: int) -> tuple[int, ...]:
    return tuple(lead + axis for axis, flip in enumerate(orientation.flips) if flip)


def _joined(values: Sequence[float]) -> str:
    return "×".join(f"{value:.6g}" for value in values)


def _listed(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _rows(direction: Sequence[Sequence[float]]) -> str:
    return "[" + "; ".join(" ".join(f"{value:.4g}" for value in row) for row in direction) + "]"
