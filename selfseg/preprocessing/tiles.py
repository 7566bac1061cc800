"""Boxes of target voxels that fit a memory limit, and logits interpolated at points of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selfseg.preprocessing.resample import axis_orders, separate_axis
from selfseg.preprocessing.taps import Part, Points, Taps, corners, grid_taps
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Resampling

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_TILE_GIB = 0.25  # larger tiles are not faster
SMALLEST_TILE = 1 << 12  # voxels; smaller ones would cost more time than they save memory
# Bytes that a tile takes: a float32 score of a source voxel; labels and coordinates of a target
# voxel; indices and weights of a point in a group.
SCORE_BYTES, VOXEL_BYTES, POINT_BYTES = 4, 32, 320
TILE_SHARE = 0.75  # of the limit; the rest is for its points
FEWEST_POINTS, MOST_POINTS = 1 << 8, 1 << 16
# Scores that are compared at once: on a CPU what fits into its cache; elsewhere as many as memory
# allows, since each part is given to the device apart: 200,000 launches for a large CT and 118
# classes would be seconds. A score takes so many bytes with its copies, the best one and the class.
SCORES_AT_ONCE, COMPARED_BYTES = 1 << 17, 20


@dataclass(frozen=True)
class Tile:
    """A box of target voxels: taps into the box `source` of the logits."""

    target: Part
    taps: tuple[Taps, ...]
    source: Part

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Voxels of the source box per axis."""
        return tuple(part.stop - part.start for part in self.source)


def make_tiles(
    record: PreprocessedCase,
    resampling: Resampling,
    classes: int,
    max_gib: float,
    voxel_bytes: int = VOXEL_BYTES,
) -> Iterator[Tile]:
    """Yield boxes that together make the cropped grid, each within the memory limit."""
    axis = separate_axis(
        record.spacing_mm, record.spacing_before_mm, resampling, is_2d=record.native.is_2d
    )
    orders = axis_orders(resampling.order_probabilities, axis, resampling)
    taps = grid_taps(record.shape, record.crop.shape, orders)
    limit = _limit(max_gib) * TILE_SHARE
    z, y, x = (slice(0, n) for n in record.crop.shape)
    waiting: list[Part] = [(z, y, x)]
    while waiting:
        target = waiting.pop()
        tile = _tile(target, taps)
        voxels = np.prod([part.stop - part.start for part in target])
        needed = voxel_bytes * voxels + SCORE_BYTES * classes * np.prod(tile.source_shape)
        halves = _halves(target) if needed > limit and voxels > SMALLEST_TILE else ()
        if not halves:
            yield tile
        waiting.extend(reversed(halves))


def slabs(source: Tensor, max_gib: float, *, classes: int = 1) -> Iterator[tuple[slice, slice]]:
    """Yield parts (along z, along y) of logits that are compared at once; together they are all.

    Args:
        source: (k, Z, Y, X).
        max_gib: Memory for temporaries.
        classes: Scores of a voxel that are held at a time.
    """
    is_cpu = source.device.type == "cpu"
    scores = SCORES_AT_ONCE if is_cpu else int(_limit(max_gib) / COMPARED_BYTES)
    _, z, y, x = source.shape
    voxels = scores // classes
    planes, rows = max(1, voxels // max(1, x * y)), min(max(1, voxels // max(1, x)), max(1, y))
    for low in range(0, z, planes):
        for first in range(0, y, rows):
            yield slice(low, low + planes), slice(first, first + rows)


def _tile(target: Part, taps: Sequence[Taps]) -> Tile:
    local, source = [], []
    for positions, along in zip(target, taps, strict=True):
        here = along.part(positions)
        first, last = int(here.index.min()), int(here.index.max())
        local.append(here.moved(first))
        source.append(slice(first, last + 1))
    return Tile(target, tuple(local), (source[0], source[1], source[2]))


def _halves(box: Part) -> tuple[Part, ...]:
    """Cut a box along its first axis that has more than one voxel; nothing if there is none."""
    for axis, part in enumerate(box):
        middle = (part.start + part.stop) // 2
        if middle > part.start:
            z, y, x = (
                [slice(part.start, middle), slice(middle, part.stop)] if i == axis else [other] * 2
                for i, other in enumerate(box)
            )
            return ((z[0], y[0], x[0]), (z[1], y[1], x[1]))
    return ()


def _limit(max_gib: float) -> float:
    """Return the bytes that a tile and its points may take."""
    return min(max_gib, LARGEST_TILE_GIB) * 2**30


def group_size(classes: int, max_gib: float) -> int:
    """Return how many points are interpolated at once."""
    room = _limit(max_gib) * (1 - TILE_SHARE)
    return max(FEWEST_POINTS, min(MOST_POINTS, int(room / (POINT_BYTES + 8 * classes))))


def score_table(source: Tensor, tile: Tile) -> Tensor:
    """Return the scores of a tile's source voxels as float32 rows (voxels, k)."""
    import torch

    box = source[(slice(None), *tile.source)]
    table = torch.empty((*tile.source_shape, len(source)), device=source.device)
    for rows, scores in zip(table, box.unbind(1), strict=True):  # slices fit into the cache
        rows.copy_(scores.float().permute(1, 2, 0))
    return table.view(-1, len(source))


def interpolate_scores(table: Tensor, tile: Tile, points: Points) -> Tensor:
    """Return the interpolated scores (points, k)."""
    import torch
    from torch.nn import functional

    flat, weight = corners(tile.taps, points, tile.source_shape)
    return functional.embedding_bag(
        torch.from_numpy(flat).to(table.device).T.contiguous(),
        table,
        mode="sum",
        per_sample_weights=torch.from_numpy(weight).to(table.device, torch.float32).T.contiguous(),
    )
