"""Grids whose axes are nearly at right angles: the rectangular grid next to them."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from selfseg.io.geometry import GRID_TOLERANCE, triple
from selfseg.records.geometry import Geometry

# NIfTI's world grows to right, anterior and superior; ours (and ITK's) to left and posterior.
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def nearest_grid(affine: NDArray[np.floating], sizes: tuple[int, int, int]) -> Geometry | None:
    """Return the rectangular grid with the same center, edges and nearest axes.

    The nearest rotation, or rotary reflection, is the orthogonal polar factor of the axes (Higham
    1986, Computing the polar decomposition with applications).

    Args:
        affine: (3, 4), from voxel indices (x, y, z) to the world in mm, RAS.
        sizes: Voxels in x, y, z.

    Returns:
        None where it would move a voxel center by more than `GRID_TOLERANCE` of the smallest edge,
        or where there are no three axes.
    """
    columns = _RAS_TO_LPS @ np.asarray(affine, np.float64)
    axes, origin = columns[:, :3], columns[:, 3]
    edges_mm = np.linalg.norm(axes, axis=0)
    if not prod(edges_mm) > 0 or not np.isfinite(columns).all():
        return None
    left, _, right = np.linalg.svd(axes / edges_mm)
    rotation = left @ right
    half = (np.array(sizes) - 1) / 2
    moved = axes - rotation * edges_mm
    corners = np.stack(np.meshgrid(*np.stack([-half, half], axis=1), indexing="ij")).reshape(3, -1)
    if np.linalg.norm(moved @ corners, axis=0).max() > GRID_TOLERANCE * edges_mm.min():
        return None
    direction = rotation[:, ::-1]
    return Geometry(
        shape=(sizes[2], sizes[1], sizes[0]),
        spacing_mm=triple(edges_mm[::-1]),
        origin_mm=triple(origin + moved @ half),
        direction=(triple(direction[0]), triple(direction[1]), triple(direction[2])),
    )
