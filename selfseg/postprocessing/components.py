"""Connected components of masks, with full connectivity: faces, edges and corners join."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg import arrays
from selfseg.records.serial import Triple

Mask = npt.NDArray[np.bool_]


def largest_component(mask: Mask) -> Mask:
    """Return the largest component of a (Z, Y, X) mask, the first of equals; empty stays empty."""
    components, sizes = _components(mask)
    if len(sizes) < 2:
        return mask
    result: Mask = components == 1 + int(np.argmax(sizes))
    return result


def without_small_components(mask: Mask, volume_ml: float, spacing_mm: Triple) -> Mask:
    """Return a (Z, Y, X) mask without its components of less than `volume_ml`."""
    components, sizes = _components(mask)
    keep = np.concatenate([[False], sizes * _voxel_ml(spacing_mm) >= volume_ml])
    result: Mask = keep[components]
    return result


def component_volumes_ml(mask: Mask, spacing_mm: Triple) -> npt.NDArray[np.float64]:
    """Return the volumes of the components of a (Z, Y, X) mask, the largest first."""
    sizes = np.sort(_components(mask)[1])[::-1]
    return np.asarray(sizes * _voxel_ml(spacing_mm), np.float64)


def filled(mask: Mask) -> Mask:
    """Return a mask with its holes filled: what no path of faces joins to the border.

    Of an image that is one voxel thick along an axis, holes in its plane.
    """
    thin = [axis for axis, size in enumerate(mask.shape) if size == 1]
    if len(thin) == 1:
        return np.expand_dims(arrays.fill_holes(mask.squeeze(thin[0])), thin[0])
    return arrays.fill_holes(mask)


def _components(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return numbered components (0 is none) and their voxels."""
    components, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, np.bool_))
    return components, np.bincount(components.ravel())[1:]


def _voxel_ml(spacing_mm: Triple) -> float:
    return prod(spacing_mm) / 1000
