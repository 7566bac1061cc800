"""Center lines as graphs: which voxels touch, how long the curves are, which are mere spurs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from selfseg.skeletons.simple import CELLS, CENTER, steps_of

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]

SMOOTHINGS = 3


@dataclass(frozen=True)
class Graph:
    """Voxels of thin curves, and which of them touch.

    Attributes:
        points: Place of each voxel (n, 3).
        first, second: The two voxels of each link.
    """

    points: Floats
    first: Indices
    second: Indices

    @cached_property
    def degrees(self) -> Indices:
        """Number of links of each voxel."""
        both = np.concatenate([self.first, self.second])
        degrees: Indices = np.bincount(both, minlength=len(self.points))
        return degrees

    @cached_property
    def lengths(self) -> Floats:
        """Length of each link, of curves whose stairs are smoothed (their ends stay)."""
        points = self.points.copy()
        inner = self.degrees == 2
        for _ in range(SMOOTHINGS):
            points[inner] = (points + self.sum_around(points))[inner] / 3
        lengths: Floats = np.linalg.norm(points[self.first] - points[self.second], axis=1)
        return lengths

    def sum_around(self, values: Floats) -> Floats:
        """Return the sum of values (n, k) over the voxels that each voxel is linked to."""
        sums = np.zeros(values.shape)
        for column, into in zip(values.T, sums.T, strict=True):
            into += np.bincount(self.first, column[self.second], len(values))
            into += np.bincount(self.second, column[self.first], len(values))
        return sums


def link(places: Indices, shape: tuple[int, ...], spacing_mm: Floats) -> Graph:
    """Link 26-neighbors, except across the box of which a third voxel has a corner.

    Args:
        places: Sorted flat indices into an array that has an empty border.
        shape: (Z, Y, X) of that array.
        spacing_mm: Voxel size; three numbers.
    """
    around = places + steps_of(shape)[:, None]
    position = np.searchsorted(places, around)
    there = places.take(position, mode="clip") == around if len(places) else position < 0
    first, second = [], []
    for index in range(CENTER + 1, len(CELLS)):
        between = there[_corners_between(index)].any(axis=0)
        (found,) = (there[index] & ~between).nonzero()
        first.append(found)
        second.append(position[index, found])
    points = np.stack(np.unravel_index(places, shape), axis=1) * np.asarray(spacing_mm, float)
    return Graph(points, np.concatenate(first), np.concatenate(second))


def find_spurs(graph: Graph, radius: Floats, *, ratio: float, slack: float) -> Indices:
    """Return the voxels at the ends of curves that only lead to the surface of a thicker part.

    From each end the curve is followed up to a junction. Where the radius has grown by at least
    the way gone over `ratio`, the way is that to a corner of the body (or to a bump on it), not
    that of a tube; of such places the thickest counts, so no curve vanishes from both ends.

    Args:
        graph: Linked voxels.
        radius: Of the largest ball inside the mask around each voxel, in the unit of the points.
        ratio: At least 1, which is the slope to the nearest surface; 1.4 is a right-angled rim.
        slack: What the way may be longer, because voxels are coarse; also the longest spur that
            leaves a part of its own radius.
    """
    ends = np.flatnonzero(graph.degrees == 1)
    sums = graph.sum_around(np.arange(len(graph.points), dtype=float)[:, None])[:, 0]
    nearest = sums.astype(np.intp)  # less the voxel come from: the voxel to go to
    spur, thickest = np.zeros(len(ends), np.intp), radius[ends]
    walker, before, now = np.arange(len(ends)), np.zeros_like(ends), ends
    way, ways = np.zeros(len(ends)), []
    while len(walker):
        ways.append((walker, now))
        before, now = now, nearest[now] - before
        way = way + np.linalg.norm(graph.points[now] - graph.points[before], axis=1)
        steep = way <= ratio * (radius[now] - radius[ends[walker]]) + slack
        better = radius[now] > thickest[walker]
        better |= (graph.degrees[now] > 2) & (radius[now] == thickest[walker])
        better &= steep
        spur[walker[better]] = len(ways)
        thickest[walker[better]] = radius[now[better]]
        going = (graph.degrees[now] == 2) & (way <= ratio * radius.max() + slack)
        walker, before, now, way = walker[going], before[going], now[going], way[going]
    marked = [voxels[step < spur[walkers]] for step, (walkers, voxels) in enumerate(ways)]
    return np.concatenate(marked) if marked else ends


@cache
def _corners_between(index: int) -> list[int]:
    """Return the cells, but the center and the cell itself, of the box that both span."""
    cell = CELLS[index]
    inside = [
        i
        for i, other in enumerate(CELLS)
        if all(part in (0, whole) for part, whole in zip(other, cell, strict=True))
    ]
    return [i for i in inside if i not in (index, CENTER)]
