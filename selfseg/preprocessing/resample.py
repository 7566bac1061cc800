"""Resampling of images and label maps: the results of `skimage.transform.resize`, much faster.

A spline resize is linear and separable before its result is clipped, so one matrix an axis gives
what `resize(mode="edge", anti_aliasing=False)` gives. The weights of a spline fade within some
voxels, so the matrix is cut into blocks along its diagonal, which BLAS multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from selfseg.preprocessing.taps import (
    Points,
    Taps,
    corners,
    grid_taps,
    make_taps,
    source_positions,
    spread,
)
from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3, Triple

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int16]

# Rows of a block: a block of 32 rows of a cubic resize has about 70 columns.
BLOCK = 32
# Splines of order 5 fade by 0.43 a voxel: what lies farther away than this has no weight.
REACH = 48
# Weights below this change a float32 result less than its rounding does.
NEGLIGIBLE = 1e-9
# Target voxels of a label map that are looked at together: bounds the temporary memory.
VOXELS_AT_ONCE, POINTS_AT_ONCE = 1 << 22, 1 << 17


@dataclass(frozen=True)
class Block:
    """Part of a resampling matrix that is not zero: `new[rows] = weights @ old[columns]`."""

    rows: slice
    columns: slice
    weights: Floats


def target_shape(shape: Shape3, spacing_mm: Triple, new_spacing_mm: Triple) -> Shape3:
    """Return the shape at a new spacing: `int(round(old / new · n))` per axis, at least one."""
    z, y, x = (
        max(round(old / new * n), 1)
        for n, old, new in zip(shape, spacing_mm, new_spacing_mm, strict=True)
    )
    return (z, y, x)


def separate_axis(
    spacing_mm: Triple, new_spacing_mm: Triple, options: Resampling, *, is_2d: bool = False
) -> int | None:
    """Return the axis that is resampled on its own, or None for all axes together.

    The current spacing decides if its ratio exceeds the limit, else the new one does; where two
    axes share the coarsest spacing, no axis is separate. A 2D image has no extent along its first
    axis, whose spacing means nothing: that one is separate.
    """
    if is_2d:
        return 0
    for spacing in (spacing_mm, new_spacing_mm):
        if max(spacing) / min(spacing) > options.separate_axis_ratio:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def axis_orders(order: int, axis: int | None, options: Resampling) -> list[int]:
    """Return the spline order along each axis, where `axis` is the separate one."""
    return [options.order_separate if i == axis else order for i in range(3)]


def resample_channel(
    channel: Floats, shape: Shape3, axis: int | None, options: Resampling
) -> Floats:
    """Resample (Z, Y, X) with splines, clipped to the range of the input.

    Args:
        channel: One channel of an image.
        shape: New (Z, Y, X).
        axis: From `separate_axis`: it uses `order_separate`, and the range is that of each slice.
        options: Orders.
    """
    if channel.shape == shape:
        return channel
    order = options.order_image
    if axis is None:
        result = _resize(channel, shape, order)
        return np.clip(result, channel.min(), channel.max(), out=result)
    slices = np.ascontiguousarray(np.moveaxis(channel, axis, 0))
    new = shape[axis]
    height, width = (n for i, n in enumerate(shape) if i != axis)
    if options.order_separate == 0:
        chosen = make_taps(len(slices), new, 0).index[:, 0]
        needed, where = np.unique(chosen, return_inverse=True)
        result = _resize_slices(slices[needed], (height, width), order, clip=True)[where]
    else:
        result = _resize_slices(slices, (height, width), order, clip=True)
        result = _resize_first(result, new, options.order_separate)
    return np.ascontiguousarray(np.moveaxis(result, 0, axis))


def resample_labels(
    labels: Labels,
    shape: Shape3,
    axis: int | None,
    options: Resampling,
    ignore: int | None = None,
) -> Labels:
    """Resample a (Z, Y, X) label map: each value's mask linearly, set where it reaches one half.

    Of two values that reach one half the larger is taken, −1 included; what no value reaches is 0,
    or `ignore` beside voxels that are not annotated: as background it would wear off the labels
    along each end of the annotation.
    """
    if labels.shape == shape:
        return labels
    taps = grid_taps(labels.shape, shape, axis_orders(options.order_label, axis, options))
    result = np.empty(shape, np.int16)
    thickness = max(1, VOXELS_AT_ONCE // (shape[1] * shape[2]))
    for first in range(0, shape[0], thickness):
        part = slice(first, first + thickness)
        here = (taps[0].part(part), *taps[1:])
        low, high = spread(labels, here)
        view = result[part]
        view[...] = low
        for points in groups(np.nonzero(low != high), POINTS_AT_ONCE):
            view[points] = _majority(labels, here, points, ignore)
    return result


def groups(points: Points, size: int) -> Iterator[Points]:
    """Yield points in groups of at most `size`."""
    for first in range(0, len(points[0]), size):
        yield tuple(axis[first : first + size] for axis in points)


def _majority(labels: Labels, taps: tuple[Taps, ...], points: Points, ignore: int | None) -> Labels:
    """Return for each point the largest label with at least half of the weight.

    Without one it is 0, or `ignore` where that takes part.
    """
    flat, weight = corners(taps, points, labels.shape)
    found = labels.ravel()[flat]
    result = np.full(flat.shape[1], np.iinfo(np.int16).min, np.int16)
    for candidate in found:
        total = np.zeros(len(candidate))
        for other, share in zip(found, weight, strict=True):
            total += np.where(other == candidate, share, 0.0)
        np.maximum(result, candidate, out=result, where=total >= 0.5)
    undecided = result == np.iinfo(np.int16).min
    result[undecided] = 0
    if ignore is not None:
        share = np.where(found == ignore, weight, 0.0).sum(axis=0)
        result[undecided & (share > 0)] = ignore
    return result


@lru_cache(maxsize=64)
def spline_blocks(old: int, new: int, order: int) -> tuple[Block, ...]:
    """Return the matrix (new, old) of a spline resize with edge extension, half-pixel centers."""
    positions = source_positions(old, new)
    return tuple(
        _block(positions, slice(first, min(first + BLOCK, new)), old, order)
        for first in range(0, new, BLOCK)
    )


def _block(positions: npt.NDArray[np.float64], rows: slice, old: int, order: int) -> Block:
    from scipy.ndimage import map_coordinates

    here = positions[rows]
    first = max(int(here[0]) - REACH, 0)
    last = min(int(here[-1]) + REACH, old)
    identity = np.eye(last - first)
    where = np.meshgrid(here - first, np.arange(last - first), indexing="ij")
    # A spline of an identity gives the weights of all source voxels at once.
    dense = map_coordinates(identity, where, order=order, mode="nearest")
    hit = np.flatnonzero((np.abs(dense) > NEGLIGIBLE).any(axis=0))
    low, high = int(hit[0]), int(hit[-1]) + 1
    weights = np.ascontiguousarray(dense[:, low:high], np.float32)
    return Block(rows, slice(first + low, first + high), weights)


def _resize(volume: Floats, shape: Shape3, order: int) -> Floats:
    """Resize all axes; the step that shrinks more comes first."""
    size = (shape[1], shape[2])
    first = shape[0] / volume.shape[0]
    plane = shape[1] * shape[2] / (volume.shape[1] * volume.shape[2])
    if first < min(plane, 1.0):
        return _resize_slices(_resize_first(volume, shape[0], order), size, order)
    return _resize_first(_resize_slices(volume, size, order), shape[0], order)


def _resize_first(volume: Floats, new: int, order: int) -> Floats:
    if len(volume) == new:
        return volume
    result = np.empty((new, *volume.shape[1:]), np.float32)
    source, target = np.ascontiguousarray(volume).reshape(len(volume), -1), result.reshape(new, -1)
    for block in spline_blocks(len(volume), new, order):
        np.matmul(block.weights, source[block.columns], out=target[block.rows])
    return result


def _resize_slices(
    volume: Floats, size: tuple[int, int], order: int, *, clip: bool = False
) -> Floats:
    """Resize slice by slice, so that what lies between two products stays in the cache."""
    result = np.empty((len(volume), *size), np.float32)
    height, width = volume.shape[1:]
    vertical = spline_blocks(height, size[0], order) if height != size[0] else ()
    horizontal = spline_blocks(width, size[1], order) if width != size[1] else ()
    for old, new in zip(volume, result, strict=True):
        middle = old if not vertical else np.empty((size[0], width), np.float32)
        for block in vertical:
            np.matmul(block.weights, old[block.columns], out=middle[block.rows])
        for block in horizontal:
            np.matmul(middle[:, block.columns], block.weights.T, out=new[:, block.rows])
        if not horizontal:
            new[...] = middle
        if clip:
            np.clip(new, old.min(), old.max(), out=new)
    return result
