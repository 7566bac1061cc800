"""Size and shape of a region in mm, from a triangle mesh and from its voxels (IBSI, 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from selfseg.radiomics.region import HALF, Floats, Mask, Region

FEW_POINTS = 300  # up to here all pairs are faster than a hull


def shape_features(region: Region) -> dict[str, float]:
    """Return size and shape of a region that is not empty, in mm, mm² and mm³.

    Volume and surface are those of the mesh that runs halfway between voxel centers. Lengths of
    axes are four standard deviations of the voxel centers along their principal axes; of a single
    voxel they are 0, and its elongation and flatness 1.
    """
    points, volume, surface = mesh_of(region.mask, region.spacing_mm)
    major, minor, least = axis_lengths_mm(region.mask, region.spacing_mm)
    return {
        "volume_mm3": volume,
        "voxel_volume_mm3": float(region.mask.sum() * math.prod(region.spacing_mm)),
        "surface_mm2": surface,
        "surface_per_volume": surface / volume,
        "sphericity": float(np.cbrt(36 * math.pi * volume**2)) / surface,
        "longest_3d_mm": longest_distance(points),
        "major_axis_mm": major,
        "minor_axis_mm": minor,
        "least_axis_mm": least,
        "elongation": minor / major if major > 0 else 1.0,
        "flatness": least / major if major > 0 else 1.0,
    }


def center_shift_mm(region: Region, channel: Floats) -> float:
    """Return how far the center of the intensities lies from that of the voxels (IBSI, KLMA).

    Intensities count from the smallest in the region, so that no weight is negative; 0 where all
    are equal. Of the IBSI's phantom, whose smallest is 1, the center is thus another than there.
    """
    places = _places(region.mask, region.spacing_mm)
    weights = channel[region.mask] - channel[region.mask].min()
    total = float(weights.sum())
    if total == 0:
        return 0.0
    return float(np.linalg.norm(weights @ places / total - places.mean(axis=0)))


def mesh_of(mask: Mask, spacing_mm: Sequence[float]) -> tuple[Floats, float, float]:
    """Return corners (n, 3) in mm, volume in mm³ and area in mm² of the surface of a mask."""
    from skimage.measure import marching_cubes

    padded = np.pad(mask, 1).astype(np.float32)
    corners, triangles, _, _ = marching_cubes(padded, HALF, spacing=tuple(spacing_mm))
    corners = np.asarray(corners, np.float64)
    a, b, c = np.moveaxis(corners[triangles], 1, 0)
    across = np.cross(b - a, c - a)
    volume = abs(float(np.einsum("ij,ij->", a, across)) / 6)
    return corners, volume, float(np.linalg.norm(across, axis=1).sum() / 2)


def axis_lengths_mm(mask: Mask, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return the lengths of the principal axes, the longest first."""
    places = _places(mask, spacing_mm)
    if len(places) == 1:
        return (0.0, 0.0, 0.0)
    spread = np.linalg.eigvalsh(np.cov(places.T, ddof=1))
    least, minor, major = (4 * math.sqrt(max(float(value), 0.0)) for value in spread)
    return (major, minor, least)


def longest_distance(points: Floats) -> float:
    """Return the largest distance of two of some points (n, d); 0 for a single one."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    if len(points) > FEW_POINTS:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all on a line or in a plane: every point counts
            points = np.unique(points, axis=0)
    return float(pdist(points).max(initial=0.0))


def longest_axial_mm(mask: Mask, spacing_mm: Sequence[float]) -> float:
    """Return the longest distance within one slice (z) of a mask, from contour to contour."""
    from skimage.measure import find_contours

    in_plane = np.asarray(spacing_mm[1:])
    longest = 0.0
    for plane in mask[mask.any(axis=(1, 2))]:
        contours = find_contours(np.pad(plane, 1).astype(np.float32), HALF)
        longest = max(longest, longest_distance(np.concatenate(contours) * in_plane))
    return longest


def _places(mask: Mask, spacing_mm: Sequence[float]) -> Floats:
    """Return the centers of the voxels of a mask (n, 3) in mm."""
    return np.asarray(np.argwhere(mask) * np.asarray(spacing_mm), np.float64)
