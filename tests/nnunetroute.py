"""The slow way to preprocess and to go back, as nnU-Net v2 does it with scikit-image and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates
from skimage.transform import resize

Array = np.ndarray[Any, np.dtype[Any]]


def resize_image(image: Array, shape: tuple[int, ...], order: int) -> Array:
    """Resize one slice or volume in float64."""
    result: Array = resize(
        image.astype(float), shape, order, mode="edge", anti_aliasing=False, clip=True
    )
    return result


def resize_labels(labels: Array, shape: tuple[int, ...], order: int) -> Array:
    """Resize value by value in ascending order, set where a mask reaches one half."""
    result = np.zeros(shape, labels.dtype)
    for value in np.unique(labels):
        result[resize_image(labels == value, shape, order) >= 0.5] = value
    return result


def along_axis(volume: Array, shape: tuple[int, ...]) -> Array:
    """Take the nearest voxel; the full grid of coordinates is built for it."""
    grid = np.mgrid[tuple(slice(n) for n in shape)].astype(float)
    for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True)):
        grid[axis] = float(old) / new * (grid[axis] + 0.5) - 0.5
    result: Array = map_coordinates(volume.astype(float), grid, order=0, mode="nearest")
    return result


def resample(
    volume: Array,
    shape: tuple[int, int, int],
    axis: int | None,
    order: int,
    *,
    labels: bool = False,
) -> Array:
    """Resample (Z, Y, X) jointly, or slice by slice and then along `axis`."""
    if volume.shape == shape:
        return volume
    one = resize_labels if labels else resize_image
    if axis is None:
        return one(volume, shape, order)
    plane = tuple(n for i, n in enumerate(shape) if i != axis)
    slices = [one(part, plane, order) for part in np.moveaxis(volume, axis, 0)]
    result = np.moveaxis(np.stack(slices), 0, axis)
    if result.shape != shape:
        result = along_axis(result, shape)
    return result.astype(volume.dtype) if labels else result
