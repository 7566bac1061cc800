"""Array types and operations that several packages share. Axes: channels first, then Z, Y, X."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from selfseg.records.geometry import Box

Indices = npt.NDArray[np.unsignedinteger]
MOST_OF_UINT8 = 254


def index_type(largest: int) -> type[np.unsignedinteger]:
    """Return the type of label indices up to `largest`: uint8 below 255, else uint16."""
    return np.uint8 if largest <= MOST_OF_UINT8 else np.uint16


def bounding_box(mask: npt.NDArray[np.bool_]) -> Box:
    """Return the tight box of the True voxels of a (Z, Y, X) mask; the whole array if none."""
    lower, upper = [0, 0, 0], list(mask.shape)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if hit.size == 0:
            return Box(lower=(0, 0, 0), upper=(mask.shape[0], mask.shape[1], mask.shape[2]))
        lower[axis], upper[axis] = int(hit[0]), int(hit[-1]) + 1
    return Box(lower=(lower[0], lower[1], lower[2]), upper=(upper[0], upper[1], upper[2]))


def nonzero_extent(image: npt.NDArray[np.floating]) -> Box:
    """Return the tight box of what is nonzero in any channel (c, Z, Y, X); the image if nothing."""
    return bounding_box((image != 0).any(axis=0))


def nonzero_box(image: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.bool_], Box]:
    """Return the mask of voxels that are nonzero in any channel, holes filled, and its box.

    Args:
        image: (c, Z, Y, X).

    Returns:
        Mask (Z, Y, X) and its tight box; the whole image if everything is zero.
    """
    mask: npt.NDArray[np.bool_] = (image != 0).any(axis=0)
    if mask.all():
        return mask, bounding_box(mask)
    if not mask.any():
        return ~mask, bounding_box(mask)
    box = bounding_box(mask)
    inner = mask[box.slices]
    if not inner.all():
        mask[box.slices] = fill_holes(inner)
    return mask, box


def fill_holes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a (Z, Y, X) mask with its holes filled: what no path of faces joins to the border.

    The result of `scipy.ndimage.binary_fill_holes`, in half of its time.
    """
    from scipy.ndimage import label

    components, count = label(~mask)
    filled = np.ones(count + 1, np.bool_)
    for axis in range(mask.ndim):
        for side in (0, -1):
            filled[components.take(side, axis)] = False
    filled[0] = True  # the mask itself
    result: npt.NDArray[np.bool_] = filled[components]
    return result
