"""Random shapes for making shape models: deformed copies of masks, and masks spoiled in many ways.

All randomness comes from a generator on the CPU, so a seed gives the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from selfseg.networks.shape_grid import blur, bounds, soft_distance

ROTATION = math.radians(15)  # largest, about each axis of the box
ELASTIC_POINTS = 4  # random displacements an axis; interpolated between
ELASTIC_SHARE = 0.04  # their standard deviation, as a share of the box
FRAME = 1.6  # edge of the frame in which a deformed shape is looked for, in boxes
JITTER = 0.05  # most that a side of the box moves, as a share of the box
# Spoiling; lengths are shares of the cube's edge.
CHANCE = 0.5  # of every kind
SHIFT = 0.05  # standard deviation of a smooth shift of the surface
SHIFT_WIDTH = 0.1
MOST_BALLS, BALL = 3, (0.06, 0.18)  # radius of balls that are added or taken away
STRONGEST_OPENING = 1 / 16  # radius, as a share
SLAB = (0.05, 0.25)
SOFTEST = 0.05  # width of the blur, and steepness of what is left
STEEPNESS = (0.5, 4.0)


def deformed(sources: Tensor, grid: int, margin: float, generator: torch.Generator) -> Tensor:
    """Return slightly turned and bent copies of shapes, each in the box of its new extent.

    Mirrored copies are not made: organs are not their own mirror images.

    Args:
        sources: (b, 1, G, G, G) in [0, 1] in the box of each shape with its margin, G ≥ `grid`.
        grid: Voxels an axis of the copies.
        margin: Of the box, as a share; jittered.
        generator: On the CPU.

    Returns:
        (b, 1, grid, grid, grid) in [0, 1].
    """
    count, device = len(sources), sources.device
    turns = _rotations(_uniform((count, 3), generator) * ROTATION).to(device)
    points = (count, 3, *(ELASTIC_POINTS,) * 3)
    bends = (torch.randn(points, generator=generator) * 2 * ELASTIC_SHARE).to(device)
    whole = torch.tensor([[-FRAME] * 3, [FRAME] * 3], device=device).expand(count, 2, 3)
    found = bounds(_warped(sources, turns, bends, whole, grid)[:, 0] > 0.5).float()
    shares = (found / grid * 2 - 1) * FRAME
    sides = _uniform((count, 2, 3), generator).to(device) * JITTER
    size = shares[:, 1] - shares[:, 0]
    size = torch.where(size > 0, size, 2.0)
    outwards = torch.tensor([-margin, margin], device=device)[None, :, None]
    boxes = shares + (outwards + sides) * size[:, None]
    return _warped(sources, turns, bends, boxes, grid).clamp(0, 1)


def spoiled(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return probabilities as a poor segmentation might give them for masks (b, 1, g, g, g)."""
    maps = clean
    if _happens(generator):
        maps = _shifted(maps, generator)
    if _happens(generator):
        maps = _with_balls(maps, generator)
    if _happens(generator):
        maps = _opened_or_closed(maps, generator)
    if _happens(generator):
        maps = _without_slab(maps, generator)
    if _happens(generator):
        grid = maps.shape[-1]
        maps = blur(maps, max(SOFTEST * grid * float(torch.rand((), generator=generator)), 0.3))
        low, high = STEEPNESS
        steep = low + (high - low) * float(torch.rand((), generator=generator))
        maps = ((maps - 0.5) * 2 * steep).sigmoid() * (maps > 1e-3)
    return maps


def _warped(sources: Tensor, turns: Tensor, bends: Tensor, boxes: Tensor, grid: int) -> Tensor:
    """Sample shapes in boxes (b, 2, 3) of a turned and bent space whose cube is [-1, 1]³."""
    cells = (torch.arange(grid, device=sources.device) + 0.5) / grid
    axes = boxes[:, 0, :, None] + cells * (boxes[:, 1] - boxes[:, 0])[..., None]  # (b, 3, g)
    z, y, x = (axes[:, axis] for axis in range(3))
    count = len(sources)
    shape = (count, grid, grid, grid)
    points = torch.stack(
        [
            z[:, :, None, None].expand(shape),
            y[:, None, :, None].expand(shape),
            x[:, None, None, :].expand(shape),
        ],
        dim=-1,
    )
    moves = F.grid_sample(
        bends, points.flip(-1), padding_mode="border", align_corners=True
    ).movedim(1, -1)
    places = torch.einsum("bij,bzyxj->bzyxi", turns, points) + moves
    return F.grid_sample(sources, places.flip(-1), align_corners=False)


def _rotations(angles: Tensor) -> Tensor:
    """Return rotations (b, 3, 3) about the three axes in turn."""
    result = torch.eye(3).expand(len(angles), 3, 3)
    for axis in range(3):
        one, other = [a for a in range(3) if a != axis]
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, one, one], turn[:, other, other] = cos, cos
        turn[:, one, other], turn[:, other, one] = -sin, sin
        result = result @ turn
    return result


def _shifted(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Move the surface in and out, smoothly from place to place."""
    grid = maps.shape[-1]
    noise = torch.randn(maps.shape, generator=generator).to(maps.device)
    noise = blur(noise, SHIFT_WIDTH * grid)
    noise = noise / noise.std().clamp_min(1e-6) * SHIFT * grid
    return ((soft_distance(maps) + noise) / 0.5).sigmoid()


def _with_balls(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Add or take away balls whose centers lie near the surface."""
    grid, maps = maps.shape[-1], maps.clone()
    line = torch.arange(grid, device=maps.device, dtype=maps.dtype)
    near = ((maps > 0.05) & (maps < 0.95)).flatten(1).cpu()
    for sample in range(len(maps)):
        surface = near[sample].nonzero()[:, 0]
        for _ in range(_integer(1, MOST_BALLS, generator) if len(surface) else 0):
            place = int(surface[_integer(0, len(surface) - 1, generator)])
            z, y, x = place // grid**2, place // grid % grid, place % grid
            low, high = BALL
            radius = grid * (low + (high - low) * float(torch.rand((), generator=generator)))
            squared = (line - z)[:, None, None] ** 2 + (line - y)[:, None] ** 2 + (line - x) ** 2
            maps[sample, 0][squared <= radius**2] = float(_happens(generator))
    return maps


def _opened_or_closed(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Open or close by a cube of a radius of up to a sixteenth of the edge."""
    radius = _integer(1, max(round(STRONGEST_OPENING * maps.shape[-1]), 1), generator)
    sign = 1.0 if _happens(generator) else -1.0
    size = 2 * radius + 1
    grown = F.max_pool3d(sign * maps, size, 1, radius)
    return sign * -F.max_pool3d(-grown, size, 1, radius)


def _without_slab(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Empty a slab across a random axis."""
    grid, low, high = maps.shape[-1], *SLAB
    thick = max(round(grid * (low + (high - low) * float(torch.rand((), generator=generator)))), 1)
    first, axis = _integer(0, grid - thick, generator), _integer(2, 4, generator)
    maps = maps.clone()
    maps.narrow(axis, first, thick).zero_()
    return maps


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return values in [-1, 1]."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _happens(generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < CHANCE


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Return an integer from low to high, both possible."""
    return int(torch.randint(low, high + 1, (), generator=generator))
