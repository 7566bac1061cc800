"""Masks of compact and of unlike shapes, and small shape models, for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfseg.networks.shape_autoencoder import LinearShape, ShapeAutoencoder, fit_linear
from selfseg.networks.shape_grid import ShapeBox, bounds, sample_box

GRID, MARGIN = 16, 0.15


def ellipsoid(
    shape: tuple[int, int, int], middle: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """Return the mask of an ellipsoid, in voxels."""
    grid = np.indices(shape)
    squared = sum(((grid[axis] - middle[axis]) / radii[axis]) ** 2 for axis in range(3))
    return np.asarray(squared <= 1)


def boxed(mask: np.ndarray, grid: int = GRID) -> Tensor:
    """Return a mask in its box (1, 1, g, g, g)."""
    part = torch.from_numpy(mask)
    low, high = bounds(part).tolist()
    box = ShapeBox(tuple(map(float, low)), tuple(map(float, high))).grown(MARGIN)
    return sample_box(part[None].float(), box, grid)[None]


def organ_maps(count: int, *, seed: int = 0) -> Tensor:
    """Return so many bent ellipsoids in their boxes (n, 1, g, g, g)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((24, 24, 24)) - 11.5
    maps = []
    for _ in range(count):
        bend = rng.uniform(0.1, 0.5)
        inside = (z / 8) ** 2 + (y / 9) ** 2 + (x / 7 - bend * ((y / 9) ** 2 - 0.5)) ** 2 <= 1
        maps.append(boxed(inside))
    return torch.cat(maps)


def linear_model(count: int = 6) -> LinearShape:
    """Return a linear model of bent ellipsoids."""
    return fit_linear(organ_maps(count), variance=0.95, margin=MARGIN)


def untrained_autoencoder() -> ShapeAutoencoder:
    """Return a frozen autoencoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ShapeAutoencoder(GRID, 16, MARGIN)
    return model.eval().requires_grad_(False)
