"""Between canonical and working axes: a permutation, and flips where the plan keeps stored axes."""

from __future__ import annotations

from typing import TypeVar, assert_never

import numpy as np
import numpy.typing as npt

from selfseg.records.geometry import Orientation, PreprocessedCase
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Shape3

Kind = TypeVar("Kind", bound=np.generic)
Flips = tuple[bool, bool, bool]
Place = tuple[slice, slice, slice]


def working_axes(orientation: Orientation, options: Preprocessing) -> tuple[Shape3, Flips]:
    """Return which canonical axis each working axis is, and whether it runs the other way.

    Args:
        orientation: How the image became canonical.
        options: The plan's axes and what they refer to.
    """
    first, second, third = options.axes
    match options.orientation:
        case "canonical":
            return options.axes, (False, False, False)
        case "ras":  # canonical Y grows to posterior and X to left
            return options.axes, (first > 0, second > 0, third > 0)
        case "stored":
            place = [orientation.permutation.index(axis) for axis in options.axes]
            a, b, c = (orientation.flips[axis] for axis in place)
            return (place[0], place[1], place[2]), (a, b, c)
        case _:
            assert_never(options.orientation)


def to_working(array: npt.NDArray[Kind], axes: Shape3, flips: Flips) -> npt.NDArray[Kind]:
    """Return a view of a canonical (…, Z, Y, X) array in working axes."""
    lead = array.ndim - 3
    moved = array.transpose(*range(lead), *(lead + axis for axis in axes))
    return np.flip(moved, _turned(flips, lead))


def from_working(array: npt.NDArray[Kind], axes: Shape3, flips: Flips) -> npt.NDArray[Kind]:
    """Return a view of an array (…, z, y, x) in working axes in canonical ones."""
    lead = array.ndim - 3
    flipped = np.flip(array, _turned(flips, lead))
    return flipped.transpose(*range(lead), *(lead + axis for axis in np.argsort(axes)))


def canonical_shape(record: PreprocessedCase) -> Shape3:
    """Return the size of a case's canonical grid."""
    z, y, x = (record.shape_before_crop[axis] for axis in np.argsort(record.axes))
    return (z, y, x)


def canonical_place(place: Place, record: PreprocessedCase) -> Place:
    """Return the canonical box of a box of the transposed array."""
    turned = [
        slice(size - part.stop, size - part.start) if flip else part
        for part, size, flip in zip(place, record.shape_before_crop, record.flips, strict=True)
    ]
    z, y, x = (turned[axis] for axis in np.argsort(record.axes))
    return (z, y, x)


def _turned(flips: Flips, lead: int) -> tuple[int, ...]:
    return tuple(lead + axis for axis, flip in enumerate(flips) if flip)
