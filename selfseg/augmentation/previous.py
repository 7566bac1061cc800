"""The previous stage's segmentation of a training sample, made as imperfect as it may come.

Morphology and deleted components follow nnU-Net v2 (Isensee et al., 2021). Labels exclude each
other before and after, so a label map is enough: what a label gains is taken from the others.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.augmentation.cpu import LabelArray, place_label
from selfseg.augmentation.draw import Morphology, Operation, Removal, SampleDraw

Mask = npt.NDArray[np.bool_]


def apply_previous(label: LabelArray, draw: SampleDraw, patch: tuple[int, ...]) -> LabelArray:
    """Apply one draw to the loaded segmentation of the previous stage.

    Args:
        label: (*loaded) label indices, -1 outside the image; not changed.
        draw: Parameters; the spatial ones are those of the image.
        patch: Final shape.

    Returns:
        New label indices (*patch), 0 outside the image.
    """
    placed = place_label(label, draw, patch)
    for change in draw.morphology:
        _change(placed, change)
    for removal in draw.removals:
        _remove(placed, removal)
    return placed


def within(mask: Mask, radius: int) -> Mask:
    """Tell which voxels have a True one within a Euclidean distance of `radius` voxels.

    The exact squared distance, one axis after the other, and no farther than the radius: many
    times faster than the distance transform of the whole array.
    """
    squared = np.where(mask, 0, radius * radius + 1)
    squared = squared.astype(np.min_scalar_type(2 * radius * radius + 1))
    for axis in range(mask.ndim):
        nearest = squared.copy()
        for shift in range(1, min(radius + 1, mask.shape[axis])):
            low, high = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
            low[axis], high[axis] = slice(None, -shift), slice(shift, None)
            cost = squared.dtype.type(shift * shift)
            for here, there in ((tuple(low), tuple(high)), (tuple(high), tuple(low))):
                np.minimum(nearest[here], squared[there] + cost, out=nearest[here])
        squared = nearest
    result: Mask = squared <= radius * radius
    return result


def _change(label: LabelArray, change: Morphology) -> None:
    """Change the shape of one label in place, where it is and a ball around."""
    box = _box(label == change.label, change.radius + 1)
    if box is None:
        return
    view = label[box]
    before = view == change.label
    after = _operate(before, change.operation, change.radius)
    view[before & ~after] = 0
    view[after & ~before] = change.label


def _operate(mask: Mask, operation: Operation, radius: int) -> Mask:
    """Apply a morphological operation; beyond the array, an erosion sees foreground."""
    match operation:
        case "dilate":
            return within(mask, radius)
        case "erode":
            return ~within(~mask, radius)
        case "open":
            return within(~within(~mask, radius), radius)
        case "close":
            return ~within(~within(mask, radius), radius)
        case _:
            assert_never(operation)


def _remove(label: LabelArray, removal: Removal) -> None:
    """Delete one small component of one label in place; components touch at faces or corners."""
    box = _box(label == removal.label, 0)
    if box is None:
        return
    view = label[box]
    components, count = ndimage.label(view == removal.label, np.ones((3,) * label.ndim))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    small = 1 + np.flatnonzero(sizes < removal.below_share * label.size)
    if len(small):
        view[components == small[int(removal.choice * len(small))]] = 0


def _box(mask: Mask, margin: int) -> tuple[slice, ...] | None:
    """Return the tight box of a mask with a margin inside the array; None for an empty mask."""
    box = []
    for axis, size in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if not len(hit):
            return None
        box.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, size)))
    return tuple(box)
