"""Sizes of surface elements: what one cell of 2 x 2 (x 2) voxel centers adds to a surface.

A cell has voxel centers as corners. The surface crosses an edge in its middle where one end is
inside and the other outside. On each face the crossings are joined so that diagonal voxels stay
apart; in 3D the joined segments close to loops, and each loop is filled with triangles around
its center (the construction of marching cubes: Lorensen and Cline, 1987).

The code of a cell has bit `i` set if its corner `i` is inside; corners count in C order, the
last axis fastest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

Point = tuple[int, ...]  # in half voxels from the cell's first corner: corners even, middles odd
Segment = tuple[Point, Point]


@lru_cache(maxsize=32)
def surfel_sizes(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Return the size of the surface inside a cell for every code.

    Args:
        spacing_mm: Voxel size of two or three axes.

    Returns:
        Array of 16 lengths in mm (2D) or 256 areas in mm² (3D); 0 at the first and last code.
    """
    dims = len(spacing_mm)
    corners = list(product((0, 2), repeat=dims))
    scale = np.asarray(spacing_mm) / 2
    sizes = np.zeros(2 ** len(corners))
    for code in range(len(sizes)):
        inside = {corner for bit, corner in enumerate(corners) if code >> bit & 1}
        segments = [s for face in _faces(dims) for s in _segments(face, inside)]
        if dims == 2:
            ends = np.array(segments, dtype=float).reshape(-1, 2, 2) * scale
            sizes[code] = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum()
        else:
            sizes[code] = sum(_loop_area(np.array(loop) * scale) for loop in _loops(segments))
    sizes.flags.writeable = False
    return sizes


def neighbor_codes(mask: np.ndarray) -> np.ndarray:
    """Return the code of every cell of a mask that is outside beyond its array.

    Args:
        mask: Boolean array of two or three axes.

    Returns:
        uint8 array, one larger along each axis; cell `i` has voxels `i - 1` and `i` as corners.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    codes = np.zeros(tuple(size + 1 for size in mask.shape), dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        part = tuple(slice(c, c + size) for c, size in zip(corner, codes.shape, strict=True))
        codes |= padded[part] << bit
    return codes


def _faces(dims: int) -> list[list[Point]]:
    """Return the corners of each face in circular order; a 2D cell is its own face."""
    square = [(0, 0), (0, 2), (2, 2), (2, 0)]
    if dims == 2:
        return [list(square)]
    return [
        [(*corner[:axis], side, *corner[axis:]) for corner in square]
        for axis in range(3)
        for side in (0, 2)
    ]


def _segments(face: Sequence[Point], inside: set[Point]) -> Iterable[Segment]:
    """Yield a segment around each run of inside corners, from its first to its last crossing."""
    for start in range(4):
        if face[start] not in inside or face[start - 1] in inside:
            continue
        stop = start
        while face[(stop + 1) % 4] in inside:
            stop += 1
        yield (
            _middle(face[start - 1], face[start]),
            _middle(face[stop % 4], face[(stop + 1) % 4]),
        )


def _middle(a: Point, b: Point) -> Point:
    return tuple((p + q) // 2 for p, q in zip(a, b, strict=True))


def _loops(segments: Sequence[Segment]) -> list[list[Point]]:
    """Join segments to closed loops; every point ends exactly two of them."""
    links: defaultdict[Point, list[Point]] = defaultdict(list)
    for a, b in segments:
        links[a].append(b)
        links[b].append(a)
    loops = []
    while links:
        point = next(iter(links))
        loop = [point]
        while links[point]:
            following = links[point].pop()
            links[following].remove(point)
            if not links[point]:
                del links[point]
            point = following
            loop.append(point)
        del links[point]
        loops.append(loop[:-1])
    return loops


def _loop_area(loop: np.ndarray) -> float:
    """Return the area of the triangles between a loop (n, 3) and its center."""
    spokes = loop - loop.mean(axis=0)
    crosses = np.cross(spokes, np.roll(spokes, -1, axis=0))
    return float(np.linalg.norm(crosses, axis=1).sum() / 2)
