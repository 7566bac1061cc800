"""The surface of a mask: how near it is to that of a ball, and how it stands out in an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

SMOOTHING = 1.0  # standard deviation in voxels: takes the stairs off a surface of voxels
MARGIN = 4


def measure_sphericity(mask: Mask, spacing_mm: Sequence[float]) -> float:
    """Return `π^⅓ (6V)^⅔ / A` of the smoothed surface; in 2D `2 √(πA) / perimeter`.

    The surface is the level of the smoothed mask that encloses as many voxels as the mask has, so
    that what is thin does not vanish.

    Args:
        mask: (Y, X) or (Z, Y, X), not empty; what lies beyond is background.
        spacing_mm: Voxel size, per axis.
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.pad(mask, MARGIN).astype(np.float32), SMOOTHING)
    count = int(np.count_nonzero(mask))
    order = np.partition(smooth.ravel(), (-count - 1, -count))
    level = float(order[-count] / 2 + order[-count - 1] / 2)
    if mask.ndim == 2:
        area, perimeter = _outline(smooth, level, spacing_mm)
        return float(min(2 * np.sqrt(np.pi * area) / perimeter, 1.0))
    volume, surface = _hull(smooth, level, spacing_mm)
    return float(min(np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 / surface, 1.0))


def measure_contrast(mask: Mask, channel: Floats) -> float | None:
    """Return the median step of intensity across the surface over the deviation inside.

    Args:
        mask: (Z, Y, X).
        channel: Of the same shape.

    Returns:
        None if the surface lies on the border of the image, or the inside is constant.
    """
    from scipy import ndimage

    (box,) = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    wider = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    mask, channel = mask[wider], channel[wider]
    steps = []
    for axis in range(mask.ndim):
        upper, lower = np.moveaxis(mask, axis, 0)[1:], np.moveaxis(mask, axis, 0)[:-1]
        edge = upper != lower
        values = np.moveaxis(channel, axis, 0)
        steps.append(np.abs(values[1:][edge] - values[:-1][edge], dtype=float))
    across = np.concatenate(steps)
    inside = float(np.std(channel[mask], dtype=float))
    if not len(across) or inside == 0:
        return None
    return float(np.median(across) / inside)


def _outline(smooth: Floats, level: float, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return area and length of the contours at a level; holes count off the area."""
    from skimage.measure import find_contours

    area = length = 0.0
    for contour in find_contours(smooth, level):
        y, x = (contour * np.asarray(spacing_mm)).T
        length += float(np.hypot(np.diff(y), np.diff(x)).sum())
        area += float(np.sum(y[:-1] * x[1:] - y[1:] * x[:-1]) / 2)
    return abs(area), length


def _hull(smooth: Floats, level: float, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return volume and area of the surface at a level; cavities count off the volume."""
    from skimage.measure import marching_cubes

    places, triangles, _, _ = marching_cubes(smooth, level, spacing=tuple(spacing_mm))
    a, b, c = np.moveaxis(places[triangles].astype(float), 1, 0)
    across = np.cross(b - a, c - a)
    volume = abs(float(np.einsum("ij,ij->", a, across)) / 6)
    return volume, float(np.linalg.norm(across, axis=1).sum() / 2)
