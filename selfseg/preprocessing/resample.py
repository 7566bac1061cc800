"""Resampling as separable operations: one matrix an axis for splines, two taps for linear.

A spline resize is linear and separable before its result is clipped, so three matrix products
give what `skimage.transform.resize(mode="edge", anti_aliasing=False)` gives, at the speed of BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from selfseg.records.preprocessing import Resampling
from selfseg.records.serial import Shape3, Triple

Floats = npt.NDArray[np.floating]
Shape = tuple[int, ...]


def target_shape(shape: Shape3, spacing_mm: Triple, new_spacing_mm: Triple) -> Shape3:
    """Return the shape at a new spacing: `int(round(old / new · n))` per axis, at least one."""
    z, y, x = (
        max(round(old / new * n), 1)
        for n, old, new in zip(shape, spacing_mm, new_spacing_mm, strict=True)
    )
    return (z, y, x)


def separate_axis(spacing_mm: Triple, new_spacing_mm: Triple, options: Resampling) -> int | None:
    """Return the axis that is resampled on its own, or None for all axes together.

    The current spacing decides if its ratio exceeds the limit, else the new one does; where two
    axes share the coarsest spacing, no axis is separate.
    """
    for spacing in (spacing_mm, new_spacing_mm):
        if max(spacing) / min(spacing) > options.separate_axis_ratio:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_image(
    image: npt.NDArray[np.float32], shape: Shape3, axis: int | None, options: Resampling
) -> npt.NDArray[np.float32]:
    """Resample (c, Z, Y, X) to a new spatial shape with splines, clipped to the input's range.

    Args:
        image: Channels first.
        shape: New (Z, Y, X).
        axis: From `separate_axis`; that axis uses `order_separate`, and the clip is per slice.
        options: Orders.
    """
    if image.shape[1:] == shape:
        return image
    return np.stack([_resample_channel(channel, shape, axis, options) for channel in image])


def resample_labels(
    labels: npt.NDArray[np.int16], shape: Shape3, axis: int | None, options: Resampling
) -> npt.NDArray[np.int16]:
    """Resample a (Z, Y, X) label map: each value's mask linearly, set where it reaches one half.

    Values go in ascending order, −1 included; what no value reaches stays 0.
    """
    if labels.shape == shape:
        return labels
    plane = _plane_shape(labels.shape, shape, axis)
    result = np.zeros(plane, np.int16)
    for value in np.unique(labels):
        mask = labels == value
        window = tuple(_reach(mask, i, plane[i]) for i in range(3))
        soft = mask.astype(np.float64)
        for i, part in enumerate(window):
            soft = _resize_axis(soft, i, plane[i], options.order_label, part)
        view = result[window]
        view[soft >= 0.5] = value
    if axis is not None:
        result = result[_take(axis, nearest_indices(labels.shape[axis], shape[axis]))]
    return result


def nearest_indices(old: int, new: int) -> npt.NDArray[np.intp]:
    """Return the source index of each target voxel, half-pixel centers, halves upwards."""
    source = np.floor((np.arange(new) + 0.5) * old / new).astype(np.intp)
    return source.clip(0, old - 1)


def linear_taps(
    old: int, new: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return lower index, upper index and weight of the upper one for each target voxel."""
    position = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    lower = np.floor(position).astype(np.intp)
    return lower, np.minimum(lower + 1, old - 1), position - lower


@lru_cache(maxsize=64)
def spline_matrix(old: int, new: int, order: int) -> npt.NDArray[np.float64]:
    """Return the (new, old) matrix of a spline resize with edge extension, half-pixel centers."""
    from scipy.ndimage import zoom

    if old == 1:
        return np.ones((new, 1))
    matrix: npt.NDArray[np.float64] = zoom(
        np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True
    )
    matrix.setflags(write=False)
    return matrix


def _resample_channel(
    channel: npt.NDArray[np.float32], shape: Shape3, axis: int | None, options: Resampling
) -> npt.NDArray[np.float32]:
    plane = _plane_shape(channel.shape, shape, axis)
    within = tuple(i for i in range(3) if i != axis)
    low = channel.min(axis=within, keepdims=True)
    high = channel.max(axis=within, keepdims=True)
    result: Floats = channel
    # Shrinking axes first: the intermediate arrays are smallest then.
    for i in sorted(within, key=lambda i: plane[i] / channel.shape[i]):
        result = _resize_axis(result, i, plane[i], options.order_image)
    if result is not channel:
        result = np.clip(result, low, high)
    if axis is None or channel.shape[axis] == shape[axis]:
        return result.astype(np.float32, copy=False)
    if options.order_separate == 0:
        return np.ascontiguousarray(
            result[_take(axis, nearest_indices(channel.shape[axis], shape[axis]))], np.float32
        )
    return _resize_axis(result, axis, shape[axis], options.order_separate).astype(np.float32)


def _resize_axis(
    array: Floats, axis: int, new: int, order: int, part: slice = slice(None)
) -> Floats:
    """Resize one axis of a 3D array; `part` keeps only these target positions."""
    old = array.shape[axis]
    if order == 0:
        return array[_take(axis, nearest_indices(old, new)[part])]
    if old == new:
        return array[_take(axis, np.arange(new)[part])] if part != slice(None) else array
    if order == 1:
        lower, upper, weight = linear_taps(old, new)
        return _blend(array, axis, lower[part], upper[part], weight[part])
    matrix = spline_matrix(old, new, order)[part].astype(array.dtype, copy=False)
    result: Floats
    match axis:
        case 0:
            result = (matrix @ array.reshape(old, -1)).reshape(-1, *array.shape[1:])
        case 1:
            result = np.matmul(matrix, array)
        case _:
            result = array @ matrix.T
    return result


def _blend(
    array: Floats,
    axis: int,
    lower: npt.NDArray[np.intp],
    upper: npt.NDArray[np.intp],
    weight: npt.NDArray[np.float64],
) -> Floats:
    along = [1, 1, 1]
    along[axis] = -1
    w = weight.astype(array.dtype).reshape(along)
    result = array[_take(axis, upper)]
    below = array[_take(axis, lower)]
    result = result - below
    result *= w
    result += below
    return result


def _plane_shape(old: Sequence[int], new: Shape3, axis: int | None) -> Shape:
    """Return the shape after the in-plane step: the separate axis is still as it was."""
    return tuple(old[i] if i == axis else new[i] for i in range(3))


def _reach(mask: npt.NDArray[np.bool_], axis: int, new: int) -> slice:
    """Return the target positions along an axis that the True voxels of a mask can reach."""
    hit = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
    lower, upper, _ = linear_taps(mask.shape[axis], new)
    reached = np.flatnonzero((upper >= hit[0]) & (lower <= hit[-1]))
    return slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)


def _take(axis: int, indices: npt.NDArray[np.intp]) -> tuple[slice | npt.NDArray[np.intp], ...]:
    return (*(slice(None),) * axis, indices)
