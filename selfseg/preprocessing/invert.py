"""Predictions back to the canonical grid: resampled and arg-maxed in chunks, crop and axes undone.

Classes times full-size voxels are never held: a chunk of output slices is filled class by class
with a running maximum, so memory depends on the chunk and not on the number of labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from selfseg.preprocessing.resample import linear_taps, nearest_indices, separate_axis
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# float32 arrays of a chunk alive at once: rows, interpolated plane, its temporaries, best, winner.
ARRAYS_PER_CHUNK = 8
LARGEST_UINT8 = 255


def label_map_from_logits(
    logits: Tensor | npt.NDArray[np.floating],
    record: PreprocessedCase,
    resampling: Resampling,
    *,
    max_gib: float,
) -> npt.NDArray[np.unsignedinteger]:
    """Return the label indices (Z, Y, X) on the canonical grid.

    Args:
        logits: (k, Z, Y, X) on the working grid, torch or numpy.
        record: How the case was preprocessed.
        resampling: The plan's orders.
        max_gib: Memory for temporaries.
    """
    classes = logits.shape[0]
    kind = np.uint8 if classes <= LARGEST_UINT8 + 1 else np.uint16
    whole = np.zeros(record.shape_before_crop, kind)
    inner = whole[record.crop.slices]
    for part, scores in _chunks(logits, record, resampling, max_gib):
        best, winner = None, None
        for index, score in enumerate(scores):
            if best is None or winner is None:
                best, winner = score.clone(), score.new_zeros(score.shape, dtype=_int16())
                continue
            better = score > best
            winner.masked_fill_(better, index)
            best = best.maximum(score)
        if winner is not None:
            inner[part] = winner.cpu().numpy().astype(kind)
    return _canonical(whole, record)


def probabilities_from_logits(
    logits: Tensor | npt.NDArray[np.floating],
    record: PreprocessedCase,
    resampling: Resampling,
    *,
    max_gib: float,
) -> npt.NDArray[np.float32]:
    """Return softmax probabilities (k, Z, Y, X) on the canonical grid; background is 1 outside.

    The result itself has the number of labels times the size of the image.
    """
    import torch

    classes = logits.shape[0]
    whole = np.zeros((classes, *record.shape_before_crop), np.float32)
    whole[0] = 1.0
    inner = whole[(slice(None), *record.crop.slices)]
    for part, scores in _chunks(logits, record, resampling, max_gib / classes):
        inner[:, part] = torch.stack([s.clone() for s in scores]).softmax(0).cpu().numpy()
    inverse = np.argsort(record.axes)
    return np.ascontiguousarray(whole.transpose(0, *(inverse + 1)))


def _chunks(
    logits: Tensor | npt.NDArray[np.floating],
    record: PreprocessedCase,
    resampling: Resampling,
    max_gib: float,
) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """Yield blocks of output slices, and for each block the scores (n, Y, X) class by class."""
    import torch

    source = torch.as_tensor(logits)
    shape = record.crop.shape
    axis = separate_axis(record.spacing_mm, record.spacing_before_mm, resampling)
    bytes_per_slice = (
        4 * ARRAYS_PER_CHUNK * max(shape[1] * shape[2], source.shape[2] * source.shape[3])
    )
    rows = max(1, min(int(max_gib * 2**30 / bytes_per_slice), shape[0]))
    for first in range(0, shape[0], rows):
        part = slice(first, min(first + rows, shape[0]))
        yield part, (_score(volume, part, shape, axis) for volume in source)


def _score(volume: Tensor, part: slice, shape: Shape3, axis: int | None) -> Tensor:
    """Resample one class to output slices `part` of a (Z, Y, X) shape."""
    old = volume.shape
    if old[0] == shape[0]:
        rows = volume[part].float()
    elif axis == 0:
        rows = volume[_index(nearest_indices(old[0], shape[0])[part], volume)].float()
    else:
        lower, upper, weight = linear_taps(old[0], shape[0])
        share = volume.new_tensor(weight[part], dtype=_float32()).reshape(-1, 1, 1)
        rows = volume[_index(lower[part], volume)].float()
        rows = rows.lerp_(volume[_index(upper[part], volume)].float(), share)
    return _resize_plane(rows, shape[1:], axis)


def _resize_plane(rows: Tensor, size: tuple[int, int], axis: int | None) -> Tensor:
    """Resize (n, Y, X) slices linearly, but the separate axis (1 or 2) by the nearest voxel."""
    from torch.nn import functional

    for separate in (1, 2):
        if axis == separate and rows.shape[separate] != size[separate - 1]:
            chosen = nearest_indices(rows.shape[separate], size[separate - 1])
            rows = rows.index_select(separate, _index(chosen, rows))
    if rows.shape[1:] == size:
        return rows
    return functional.interpolate(rows[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _index(indices: npt.NDArray[np.intp], like: Tensor) -> Tensor:
    import torch

    return torch.as_tensor(indices, dtype=torch.int64, device=like.device)


def _canonical(
    working: npt.NDArray[np.unsignedinteger], record: PreprocessedCase
) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(working.transpose(np.argsort(record.axes)))


def _int16() -> torch.dtype:
    import torch

    return torch.int16


def _float32() -> torch.dtype:
    import torch

    return torch.float32
