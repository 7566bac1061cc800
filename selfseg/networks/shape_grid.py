"""The frame in which shapes are compared: a box around the label, sampled on a small cube."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Soft signed distances: width of the blur in voxels of the cube, and the share of the blurred mask
# beyond which the distance stays at its limit (about 2.3 widths).
DISTANCE_WIDTH = 1.0
DISTANCE_LIMIT = 0.01


class ShapeBox(NamedTuple):
    """A box in voxels, one entry an axis; voxel i covers [i, i + 1]."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @property
    def size(self) -> tuple[float, ...]:
        """Voxels an axis."""
        return tuple(high - low for low, high in zip(self.lower, self.upper, strict=True))

    def moved(self, lower: Sequence[float], upper: Sequence[float]) -> ShapeBox:
        """Return the box with its sides moved by shares of its size."""
        return ShapeBox(
            tuple(a + s * m for a, s, m in zip(self.lower, self.size, lower, strict=True)),
            tuple(b + s * m for b, s, m in zip(self.upper, self.size, upper, strict=True)),
        )

    def grown(self, margin: float) -> ShapeBox:
        """Return the box with a share of its size added at every side."""
        return self.moved([-margin] * len(self.lower), [margin] * len(self.lower))


def bounds(masks: Tensor) -> Tensor:
    """Return the lowest voxel and one past the highest, (…, 2, 3) int64; 0 where a mask is empty.

    Args:
        masks: Bool (…, z, y, x).
    """
    lower, upper = [], []
    for others in ((-2, -1), (-3, -1), (-3, -2)):
        line = masks.any(dim=others).long()  # a smaller type would not hold a length
        length = line.shape[-1] * line.amax(dim=-1)
        lower.append(line.argmax(dim=-1))
        upper.append((length - line.flip(-1).argmax(dim=-1)).clamp_min(0))
    return torch.stack([torch.stack(lower, dim=-1), torch.stack(upper, dim=-1)], dim=-2)


def sample_box(maps: Tensor, box: ShapeBox, grid: int) -> Tensor:
    """Sample maps (m, z, y, x) in a box on a cube, (m, grid, grid, grid); 0 beyond the maps.

    Where a voxel of the cube covers several voxels they are averaged first, so nothing is skipped;
    then the interpolation is trilinear. Differentiable in the maps, and linear in them.
    """
    shape = maps.shape[1:]
    steps = [max(int(size / grid), 1) for size in box.size]
    first = [min(max(math.floor(low), 0), n - 1) for low, n in zip(box.lower, shape, strict=True)]
    last = [
        min(max(math.ceil(high), at + 1), n)
        for high, at, n in zip(box.upper, first, shape, strict=True)
    ]
    part = maps[:, first[0] : last[0], first[1] : last[1], first[2] : last[2]]
    missing = [-(b - a) % step for a, b, step in zip(first, last, steps, strict=True)]
    part = F.pad(part, (0, missing[2], 0, missing[1], 0, missing[0]))
    if max(steps) > 1:
        part = F.avg_pool3d(part[None], steps, steps)[0]
    axes = []
    for axis in range(3):
        cells = (torch.arange(grid, device=maps.device, dtype=maps.dtype) + 0.5) / grid
        place = box.lower[axis] + cells * box.size[axis] - first[axis]
        axes.append(2 * place / (part.shape[axis + 1] * steps[axis]) - 1)
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    places = torch.stack((x, y, z), dim=-1)[None]
    return F.grid_sample(part[None], places, padding_mode="zeros", align_corners=False)[0]


def blur(maps: Tensor, width: float) -> Tensor:
    """Blur (b, m, z, y, x) by a Gaussian of a standard deviation in voxels; 0 beyond the border."""
    reach = math.ceil(3 * width)
    line = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-0.5 * (line / width) ** 2)
    weights = weights / weights.sum()
    flat = maps.flatten(0, 1)[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = len(line), reach
        flat = F.conv3d(flat, weights.reshape(shape), padding=padding)
    return flat.reshape(maps.shape)


def soft_distance(maps: Tensor) -> Tensor:
    """Return the signed distance to the surface of masks or probabilities, positive inside.

    A mask with a flat surface at distance d, blurred by a Gaussian of width w, is Φ(d/w) (Φ the
    normal distribution), so w·Φ⁻¹(blurred) is d; on curved surfaces nearly so. Unlike the distance
    transform this has a gradient in the probabilities.

    Args:
        maps: (b, m, g, g, g) in [0, 1].

    Returns:
        Distances in voxels of the cube, limited to about ±2.3 widths.
    """
    blurred = blur(maps, DISTANCE_WIDTH).clamp(DISTANCE_LIMIT, 1 - DISTANCE_LIMIT)
    distance: Tensor = DISTANCE_WIDTH * torch.special.ndtri(blurred)
    return distance


def dice(one: Tensor, other: Tensor) -> Tensor:
    """Return the Dice of masks (b, 1, g, g, g) > 1/2, (b,); 1 where both are empty."""
    first, second = one.flatten(1) > 0.5, other.flatten(1) > 0.5
    both, total = (first & second).sum(dim=1), first.sum(dim=1) + second.sum(dim=1)
    return torch.where(total > 0, 2 * both / total.clamp_min(1), 1.0)
