"""Predictions back to the canonical grid: resampled and decoded in tiles, crop and axes undone.

Where all source voxels of a target voxel have the same winning class, linear interpolation cannot
change the winner; nor can it change which region is the last one with a positive logit. So logits
are interpolated at the surfaces between classes only, tile by tile; classes times full-size voxels
are never held, and memory does not grow with the number of labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from selfseg.arrays import Indices, index_type
from selfseg.preprocessing.axes import (
    canonical_shape,
    from_working,
    to_working,
)
from selfseg.preprocessing.resample import groups
from selfseg.preprocessing.taps import spread
from selfseg.preprocessing.tiles import (
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
    kind = index_type(largest)
    first = _last_regions if targets.regions else _winners
    working = first(source, kind, max_gib)
    whole = np.zeros(record.shape_before_crop, kind)
    inner = whole[record.crop.slices]
    size = group_size(source.shape[0], max_gib)
    for tile in make_tiles(record, resampling, source.shape[0], max_gib):
        low, high = spread(working[tile.source], tile.taps)
        inner[tile.target] = low
        points = np.nonzero(low != high)
        if len(points[0]):
            table = score_table(source, tile)
            for group in groups(points, size):
                scores = interpolate_scores(table, tile, group)
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
    size = group_size(classes, max_gib)
    for tile in make_tiles(record, resampling, classes, max_gib):
        table = score_table(source, tile)
        z, y, x = tile.target
        view = inner[:, z, y, x]
        points = np.nonzero(np.ones(view.shape[1:], np.bool_))
        for group in groups(points, size):
            scores = interpolate_scores(table, tile, group)
            values = scores.sigmoid() if targets.regions else scores.softmax(1)
            view[:, group[0], group[1], group[2]] = values.T.cpu().numpy()
    return canonical


def _winners(source: Tensor, kind: type[np.unsignedinteger], max_gib: float) -> Indices:
    """Return the class with the largest score, the first of equals, on the working grid."""
    import torch

    result = np.empty(source.shape[1:], kind)
    for part in slabs(source, max_gib):
        best = source[(0, *part)].float()
        winner = torch.zeros_like(best, dtype=torch.int32)
        for index in range(1, len(source)):
            score = source[(index, *part)].float()
            winner.masked_fill_(score > best, index)
            best = best.maximum(score)
        result[part] = winner.cpu().numpy()
    return result


def _last_regions(source: Tensor, kind: type[np.unsignedinteger], max_gib: float) -> Indices:
    """Return 1 + the last region with a logit above 0, 0 without one, on the working grid."""
    result = np.empty(source.shape[1:], kind)
    for part in slabs(source, max_gib):
        scores = source[(slice(None), *part)]
        result[part] = _last_positive(scores.movedim(0, -1)).cpu().numpy()
    return result


def _last_positive(scores: Tensor) -> Tensor:
    """Return 1 + the last class with a score above 0, 0 without one, of scores (…, k)."""
    import torch

    last = torch.zeros(scores.shape[:-1], dtype=torch.int32, device=scores.device)
    for index in range(scores.shape[-1]):
        last.masked_fill_(scores[..., index] > 0, index + 1)
    return last
