"""Which source voxels, with which weights, make a target voxel: nearest and linear resampling.

Coordinates and weights are computed as `scipy.ndimage` does, operation by operation, so that
decisions at a threshold are the same. Between equal labels nothing has to be computed: only
target voxels whose source voxels differ (the surfaces) are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from selfseg.records.serial import Shape3

T = TypeVar("T", bound=np.integer)
Part = tuple[slice, slice, slice]
Points = tuple[npt.NDArray[np.intp], ...]


@dataclass(frozen=True)
class Taps:
    """Source indices of each target voxel along one axis.

    Attributes:
        index: (new, n); one column for nearest, two for linear.
        weight: (new, n), rows sum to 1.
    """

    index: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float64]

    def part(self, positions: slice) -> Taps:
        """Return the taps of some target positions."""
        return Taps(self.index[positions], self.weight[positions])

    def moved(self, by: int) -> Taps:
        """Return the taps for a source that starts at index `by`."""
        return Taps(self.index - by, self.weight)


def source_positions(old: int, new: int) -> npt.NDArray[np.float64]:
    """Return where the centers of `new` voxels lie on an axis of `old` voxels."""
    return np.asarray((np.arange(new) + 0.5) * (old / new) - 0.5, np.float64)


def make_taps(old: int, new: int, order: int) -> Taps:
    """Return nearest (order 0, halves upwards) or linear (order 1) taps of an axis."""
    positions = source_positions(old, new)
    if order == 0 or old == new:
        nearest = np.floor(positions + 0.5).astype(np.intp).clip(0, old - 1)
        return Taps(nearest[:, None], np.ones((new, 1)))
    lower = np.floor(positions)
    first = 1.0 - (positions - lower)
    index = np.stack([lower, lower + 1], axis=1).astype(np.intp).clip(0, old - 1)
    return Taps(index, np.stack([first, 1.0 - first], axis=1))


def grid_taps(old: Sequence[int], new: Shape3, orders: Sequence[int]) -> tuple[Taps, ...]:
    """Return the taps of all three axes, with an order for each."""
    return tuple(make_taps(a, b, order) for a, b, order in zip(old, new, orders, strict=True))


def spread(labels: npt.NDArray[T], taps: Sequence[Taps]) -> tuple[npt.NDArray[T], npt.NDArray[T]]:
    """Return the least and the largest label among the source voxels of each target voxel."""
    low = high = labels
    for axis, along in enumerate(taps):
        first, last = along.index[:, 0], along.index[:, -1]
        same = high is low
        if along.index.shape[1] == 1:
            low = low.take(first, axis)
            high = low if same else high.take(first, axis)
            continue
        a, b = low.take(first, axis), low.take(last, axis)
        if same:
            low, high = np.minimum(a, b), np.maximum(a, b)
            continue
        low = np.minimum(a, b)
        high = np.maximum(high.take(first, axis), high.take(last, axis))
    return low, high


def corners(
    taps: Sequence[Taps], points: Points, shape: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return flat source indices and weights, (n, points), of target points.

    Args:
        taps: Of the three axes; n is the product of their columns.
        points: Target indices along each axis.
        shape: Of the source that the flat indices refer to.
    """
    flat: list[npt.NDArray[np.int64]] = [np.zeros(len(points[0]), np.int64)]
    weight: list[npt.NDArray[np.float64]] = [np.ones(len(points[0]))]
    for along, where, extent in zip(taps, points, shape, strict=True):
        indices = [column[where] for column in along.index.T]
        shares = [column[where] for column in along.weight.T]
        flat = [before * extent + index for before in flat for index in indices]
        weight = [before * share for before in weight for share in shares]
    return np.stack(flat), np.stack(weight)
