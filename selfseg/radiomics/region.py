"""A region of an image: cut out, brought to a grid, its intensities sorted into levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.records.serial import Triple

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int64]

MARGIN = 4  # voxels around the region: enough for cubic interpolation and for shifted contours
HALF = 0.5  # share of a voxel that belongs to a mask after interpolation (IBSI)
CUBIC = 3
# A guard, not a choice of features: a matrix of 1024 levels takes 8 MB, of more with their square.
# 25 HU from -1024 to 3071 are 164 levels; beyond 1024, units and width do not belong together.
MOST_LEVELS = 1024


@dataclass(frozen=True)
class Region:
    """A mask in an image, cut out with a margin.

    Attributes:
        channels: Intensities (c, z, y, x).
        mask: (z, y, x), not empty.
        spacing_mm: Voxel size per axis.
    """

    channels: Floats
    mask: Mask
    spacing_mm: Triple


def cut_region(channels: npt.NDArray[np.floating], mask: Mask, spacing_mm: Triple) -> Region:
    """Cut a region out of an image.

    Args:
        channels: (c, z, y, x).
        mask: (z, y, x), not empty.
        spacing_mm: Voxel size per axis.
    """
    (box,) = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    wider = tuple(slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in box)
    cut = np.asarray(channels[(slice(None), *wider)], np.float64)
    return Region(cut, np.ascontiguousarray(mask[wider]), spacing_mm)


def resample_region(region: Region, spacing_mm: float) -> Region:
    """Bring a region to isotropic voxels; the centers of both grids coincide (IBSI, 2.4).

    Intensities are interpolated by cubic splines, the mask linearly and cut at one half. An axis
    with a single voxel stays as it is: a picture has no thickness.

    Returns:
        The region; its mask may be empty where it was thinner than the new voxels.
    """
    shape = region.mask.shape
    old = np.array(region.spacing_mm)
    new = np.where(np.array(shape) == 1, old, spacing_mm)
    if np.allclose(old, new):
        return region
    counts = np.ceil(np.array(shape) * old / new - 1e-9).astype(int)
    axes = [
        (np.arange(count) - (count - 1) / 2) * step + (size - 1) / 2
        for count, step, size in zip(counts, new / old, shape, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    channels = np.stack(
        [
            ndimage.map_coordinates(channel, places, order=CUBIC, mode="nearest")
            for channel in region.channels
        ]
    )
    soft = ndimage.map_coordinates(region.mask.astype(np.float64), places, order=1, mode="nearest")
    z, y, x = (float(step) for step in new)
    return Region(channels, soft >= HALF - 1e-9, (z, y, x))


def discretize(values: Floats, *, width: float) -> Levels:
    """Return levels 1, 2, … of a fixed width, from the smallest value on (IBSI, 2.7).

    Where the width gives more than 1024 levels, it is doubled until it does not.

    Args:
        values: Intensities of a region, any shape.
        width: Width of a level, in units of intensity.
    """
    span = float(values.max() - values.min())
    while span / width >= MOST_LEVELS:
        width *= 2
    levels: Levels = np.floor((values - values.min()) / width).astype(np.int64) + 1
    return levels


def grid_of_levels(region: Region, values: Sequence[int] | Levels) -> Levels:
    """Return levels on the grid of a region, 0 outside; `values` run as `channel[mask]` does."""
    grid: Levels = np.zeros(region.mask.shape, np.int64)
    grid[region.mask] = values
    return grid
