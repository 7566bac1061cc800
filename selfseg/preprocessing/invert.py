"""Predictions back to the canonical grid: resampled and decoded in tiles, crop and axes undone.

Where all source voxels of a target voxel have the same winning class, linear interpolation cannot
change the winner; nor can it change which region is the last one with a positive logit. So logits
are interpolated at the surfaces between classes only, tile by tile; classes times full-size voxels
are never held, and memory does not grow with the number of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from selfseg.preprocessing.axes import (
    canonical_place,
    canonical_shape,
    from_working,
    to_working,
)
from selfseg.preprocessing.resample import axis_orders, groups, separate_axis
from selfseg.preprocessing.taps import Part, Points, Taps, corners, grid_taps, spread
from selfseg.records.dataset import Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Resampling

if TYPE_CHECKING:
    from torch import Tensor

Indices = npt.NDArray[np.unsignedinteger]

LARGEST_TILE_GIB = 0.25  # larger tiles are not faster
SMALLEST_TILE = 1 << 12  # voxels; smaller ones would cost more time than they save memory
# Bytes that a tile takes: a float32 score of a source voxel; labels and coordinates of a target
# voxel; indices and weights of a point in a group.
SCORE_BYTES, VOXEL_BYTES, POINT_BYTES = 4, 32, 320
TILE_SHARE = 0.75  # of the limit; the rest is for its points
FEWEST_POINTS, MOST_POINTS = 1 << 8, 1 << 16
# Scores of one class that are compared at once: fits into the cache of a processor.
SCORES_AT_ONCE = 1 << 17
MOST_LABELS_OF_UINT8 = 254
# A probability this close to 0 or 1 counts as that: stored ones have 8 bits.
NEGLIGIBLE = 1 / 1024


@dataclass(frozen=True)
class _Tile:
    """A box of target voxels: taps into the box `source` of the logits."""

    target: Part
    taps: tuple[Taps, ...]
    source: Part

    @property
    def source_shape(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.source)


def label_map_from_logits(
    logits: Tensor | npt.NDArray[np.floating],
    record: PreprocessedCase,
    resampling: Resampling,
    *,
    targets: Targets,
    max_gib: float,
) -> Indices:
    """Return the label indices (Z, Y, X) on the canonical grid, uint8 below 255 labels.

    The label with the largest logit wins. Regions with a logit above 0 write their labels in their
    order, so later ones overwrite earlier.

    Args:
        logits: (k, Z, Y, X) on the working grid, torch (any device) or numpy, any float type.
        record: How the case was preprocessed.
        resampling: The plan's orders.
        targets: What the logits mean: softmax of labels, or sigmoid of regions.
        max_gib: Memory for temporaries, in the main memory and on the logits' device.
    """
    import torch

    source = torch.as_tensor(logits)
    largest = max(source.shape[0] - 1, len(targets.labels), len(targets.regions))
    kind = np.uint8 if largest <= MOST_LABELS_OF_UINT8 else np.uint16
    working = _last_regions(source, kind) if targets.regions else _winners(source, kind)
    whole = np.zeros(record.shape_before_crop, kind)
    inner = whole[record.crop.slices]
    size = _group_size(source.shape[0], max_gib)
    for tile in _tiles(record, resampling, source.shape[0], max_gib):
        low, high = spread(working[tile.source], tile.taps)
        inner[tile.target] = low
        points = np.nonzero(low != high)
        if len(points[0]):
            table = _table(source, tile)
            for group in groups(points, size):
                scores = _scores(table, tile, group)
                winner = _last_positive(scores) if targets.regions else scores.argmax(1)
                inner[tile.target][group] = winner.cpu().numpy()
    if targets.regions:
        written = [0, *(targets.index(region.value) for region in targets.regions)]
        for part in inner:
            part[...] = np.array(written, kind)[part]
    return np.ascontiguousarray(from_working(whole, record.axes, record.flips))


def probabilities_from_logits(
    logits: Tensor | npt.NDArray[np.floating],
    record: PreprocessedCase,
    resampling: Resampling,
    *,
    targets: Targets,
    max_gib: float,
) -> npt.NDArray[np.float32]:
    """Return probabilities (k, Z, Y, X) on the canonical grid: softmax, or sigmoid of regions.

    Outside the nonzero box background is 1, and regions are 0. The arguments are those of
    `label_map_from_logits`; logits are resampled before they become probabilities. The result
    itself has the number of classes times the size of the image.
    """
    import torch

    source = torch.as_tensor(logits)
    classes = source.shape[0]
    canonical = np.zeros((classes, *canonical_shape(record)), np.float32)
    whole = to_working(canonical, record.axes, record.flips)
    if not targets.regions:
        whole[0] = 1.0
    z, y, x = record.crop.slices
    inner = whole[:, z, y, x]
    size = _group_size(classes, max_gib)
    for tile in _tiles(record, resampling, classes, max_gib):
        table = _table(source, tile)
        z, y, x = tile.target
        view = inner[:, z, y, x]
        points = np.nonzero(np.ones(view.shape[1:], np.bool_))
        for group in groups(points, size):
            scores = _scores(table, tile, group)
            values = scores.sigmoid() if targets.regions else scores.softmax(1)
            view[:, group[0], group[1], group[2]] = values.T.cpu().numpy()
    return canonical


def foreground_tiles(
    logits: Tensor,
    record: PreprocessedCase,
    resampling: Resampling,
    *,
    targets: Targets,
    max_gib: float,
) -> Iterator[tuple[Part, npt.NDArray[np.float32]]]:
    """Yield boxes of the canonical grid with their probabilities (c, z, y, x) of `targets.names`.

    Outside of the boxes nothing is foreground. Where all source voxels of a target voxel are
    certain of the same result (their log-odds are concave in the logits, so interpolation cannot
    make them less certain), it is taken as 0 or 1: an error of at most `NEGLIGIBLE`.

    Args:
        logits: (k, Z, Y, X) on the working grid, on any device.
        record: How the case was preprocessed.
        resampling: The plan's orders.
        targets: What the logits mean: softmax of labels, or sigmoid of regions.
        max_gib: Memory for temporaries.
    """
    certain, patterns = _certain(logits, targets)
    classes = len(logits)
    size = _group_size(classes, max_gib)
    voxel_bytes = VOXEL_BYTES + 2 * SCORE_BYTES * classes
    for tile in _tiles(record, resampling, classes, max_gib, voxel_bytes):
        low, high = spread(certain[tile.source], tile.taps)
        unclear = (low != high) | (low == 0)
        low[unclear] = 0
        values = np.zeros((len(targets.names), *low.shape), np.float32)
        for code in np.unique(low):
            for channel in patterns[code]:
                values[channel][low == code] = 1.0
        points = np.nonzero(unclear)
        table = _table(logits, tile) if len(points[0]) else None
        for group in groups(points, size):
            assert table is not None
            scores = _scores(table, tile, group)
            chances = scores.sigmoid() if targets.regions else scores.softmax(1)[:, 1:]
            values[:, group[0], group[1], group[2]] = chances.T.cpu().numpy()
        z, y, x = (
            slice(lower + part.start, lower + part.stop)
            for lower, part in zip(record.crop.lower, tile.target, strict=True)
        )
        turned = from_working(values, record.axes, record.flips)
        # An array that runs backwards cannot become a tensor.
        yield canonical_place((z, y, x), record), np.ascontiguousarray(turned)


def _certain(
    logits: Tensor, targets: Targets
) -> tuple[npt.NDArray[np.uint16], list[tuple[int, ...]]]:
    """Return a code for each voxel of the working grid, and the channels that a code means.

    Code 0: some probability is neither 0 nor 1.
    """
    import torch

    result = np.zeros(logits.shape[1:], np.uint16)
    patterns: dict[tuple[int, ...], int] = {}
    rows = max(1, SCORES_AT_ONCE // (len(logits) * logits.shape[3]))
    for z in range(logits.shape[1]):
        for y in range(0, logits.shape[2], rows):
            scores = logits[:, z, y : y + rows].float()
            if targets.regions:
                chances = scores.sigmoid()
                clear = (chances.minimum(1 - chances) <= NEGLIGIBLE).all(0).cpu().numpy()
                found = (chances > 0.5).cpu().numpy()
                kinds, code = np.unique(found.reshape(len(found), -1), axis=1, return_inverse=True)
                named = [
                    patterns.setdefault(tuple(np.flatnonzero(kind).tolist()), len(patterns) + 1)
                    for kind in kinds.T
                ]
                known = np.array(named, np.uint16)[code.reshape(clear.shape)]
                result[z, y : y + rows] = np.where(clear, known, 0)
            else:
                best, winner = torch.softmax(scores, 0).max(0)
                winner = torch.where(best >= 1 - NEGLIGIBLE, winner + 1, 0)
                result[z, y : y + rows] = winner.cpu().numpy()
    if targets.regions:
        return result, [(), *patterns]
    return result, [(), (), *((index,) for index in range(len(logits) - 1))]


def _tiles(
    record: PreprocessedCase,
    resampling: Resampling,
    classes: int,
    max_gib: float,
    voxel_bytes: int = VOXEL_BYTES,
) -> Iterator[_Tile]:
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


def _tile(target: Part, taps: Sequence[Taps]) -> _Tile:
    local, source = [], []
    for positions, along in zip(target, taps, strict=True):
        here = along.part(positions)
        first, last = int(here.index.min()), int(here.index.max())
        local.append(here.moved(first))
        source.append(slice(first, last + 1))
    return _Tile(target, tuple(local), (source[0], source[1], source[2]))


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


def _group_size(classes: int, max_gib: float) -> int:
    """Return how many points are interpolated at once."""
    room = _limit(max_gib) * (1 - TILE_SHARE)
    return max(FEWEST_POINTS, min(MOST_POINTS, int(room / (POINT_BYTES + 8 * classes))))


def _table(source: Tensor, tile: _Tile) -> Tensor:
    """Return the scores of a tile's source voxels as float32 rows (voxels, k)."""
    import torch

    box = source[(slice(None), *tile.source)]
    table = torch.empty((*tile.source_shape, len(source)), device=source.device)
    for rows, scores in zip(table, box.unbind(1), strict=True):  # slices fit into the cache
        rows.copy_(scores.float().permute(1, 2, 0))
    return table.view(-1, len(source))


def _scores(table: Tensor, tile: _Tile, points: Points) -> Tensor:
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


def _winners(source: Tensor, kind: type[np.unsignedinteger]) -> Indices:
    """Return the class with the largest score, the first of equals, on the working grid."""
    import torch

    result = np.empty(source.shape[1:], kind)
    rows = max(1, SCORES_AT_ONCE // max(1, source.shape[2] * source.shape[3]))
    for first in range(0, source.shape[1], rows):
        part = slice(first, first + rows)
        best = source[0, part].float()
        winner = torch.zeros_like(best, dtype=torch.int32)
        for index in range(1, len(source)):
            score = source[index, part].float()
            winner.masked_fill_(score > best, index)
            best = best.maximum(score)
        result[part] = winner.cpu().numpy()
    return result


def _last_regions(source: Tensor, kind: type[np.unsignedinteger]) -> Indices:
    """Return 1 + the last region with a logit above 0, 0 without one, on the working grid."""
    result = np.empty(source.shape[1:], kind)
    rows = max(1, SCORES_AT_ONCE // max(1, source.shape[2] * source.shape[3]))
    for first in range(0, source.shape[1], rows):
        part = slice(first, first + rows)
        result[part] = _last_positive(source[:, part].movedim(0, -1)).cpu().numpy()
    return result


def _last_positive(scores: Tensor) -> Tensor:
    """Return 1 + the last class with a score above 0, 0 without one, of scores (…, k)."""
    import torch

    last = torch.zeros(scores.shape[:-1], dtype=torch.int32, device=scores.device)
    for index in range(scores.shape[-1]):
        last.masked_fill_(scores[..., index] > 0, index + 1)
    return last
