"""Where something may be foreground on the canonical grid, with probabilities there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from selfseg.preprocessing.axes import (
    canonical_place,
    from_working,
)
from selfseg.preprocessing.resample import groups
from selfseg.preprocessing.taps import Part, spread
from selfseg.preprocessing.tiles import (
    SCORE_BYTES,
    VOXEL_BYTES,
    group_size,
    interpolate_scores,
    make_tiles,
    score_table,
    slabs,
)
from selfseg.records.dataset import Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Resampling

if TYPE_CHECKING:
    from torch import Tensor

# A probability this close to 0 or 1 counts as that: stored ones have 8 bits.
NEGLIGIBLE = 1 / 1024


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
    certain, patterns = _certain(logits, targets, max_gib)
    classes = len(logits)
    size = group_size(classes, max_gib)
    voxel_bytes = VOXEL_BYTES + 2 * SCORE_BYTES * classes
    for tile in make_tiles(record, resampling, classes, max_gib, voxel_bytes):
        low, high = spread(certain[tile.source], tile.taps)
        unclear = (low != high) | (low == 0)
        low[unclear] = 0
        values = np.zeros((len(targets.names), *low.shape), np.float32)
        for code in np.unique(low):
            for channel in patterns[code]:
                values[channel][low == code] = 1.0
        points = np.nonzero(unclear)
        table = score_table(logits, tile) if len(points[0]) else None
        for group in groups(points, size):
            assert table is not None
            scores = interpolate_scores(table, tile, group)
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
    logits: Tensor, targets: Targets, max_gib: float
) -> tuple[npt.NDArray[np.uint16], list[tuple[int, ...]]]:
    """Return a code for each voxel of the working grid, and the channels that a code means.

    Code 0: some probability is neither 0 nor 1.
    """
    import torch

    result = np.zeros(logits.shape[1:], np.uint16)
    patterns: dict[tuple[int, ...], int] = {}
    for part in slabs(logits, max_gib, classes=len(logits)):
        scores = logits[(slice(None), *part)].float()
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
            result[part] = np.where(clear, known, 0)
        else:
            best, winner = torch.softmax(scores, 0).max(0)
            winner = torch.where(best >= 1 - NEGLIGIBLE, winner + 1, 0)
            result[part] = winner.cpu().numpy()
    if targets.regions:
        return result, [(), *patterns]
    return result, [(), (), *((index,) for index in range(len(logits) - 1))]
