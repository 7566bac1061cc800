"""Which voxels can be removed without a change of topology: simple points of 3×3×3 neighborhoods.

A neighborhood is a number of 27 bits, one a cell, in the order of the flattened (Z, Y, X) cells;
the bit of the center is ignored.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]
Steps = npt.NDArray[np.intp]

CELLS = tuple(product((-1, 0, 1), repeat=3))
CENTER = CELLS.index((0, 0, 0))
FACES = sum(1 << i for i, cell in enumerate(CELLS) if np.abs(cell).sum() == 1)
WITHOUT_CORNERS = sum(1 << i for i, cell in enumerate(CELLS) if np.abs(cell).sum() in (1, 2))
AROUND = (1 << 27) - 1 - (1 << CENTER)
# The bit of the center tells what is followed: background, by faces, or foreground, by corners.
BY_FACES = 1 << CENTER
HALF_BITS = CENTER + 1  # cells are looked up in two halves, both with the center
PLACES_AT_ONCE = 1 << 16  # bounds the temporary memory

# Neighborhoods that were judged, each where its hash says, with the answer in the center's bit.
# Surfaces repeat few of the 2²⁶: a look is many times faster than judging small arrays anew. An
# entry tells by itself what it answers, so threads may share the table.
SLOT_BITS = 18
_JUDGED = np.zeros(1 << SLOT_BITS, np.int32)
_HASH = np.uint32(2_654_435_769)  # 2³² over the golden ratio (Knuth, multiplicative hashing)


def neighborhoods(body: npt.NDArray[np.uint8], places: npt.NDArray[np.intp], steps: Steps) -> Codes:
    """Return the code of each place.

    Args:
        body: Flattened (Z, Y, X) array of 0 and 1 with a border of zeros.
        places: Flat indices into it.
        steps: What leads from a place to its 27 cells, as given by `steps_of`.
    """
    codes = np.empty(len(places), np.int32)
    for first in range(0, len(places), PLACES_AT_ONCE):
        part = slice(first, first + PLACES_AT_ONCE)
        cells = body[places[part, None] + steps]
        codes[part] = np.packbits(cells, axis=1, bitorder="little").view("<i4")[:, 0]
    return codes


def steps_of(shape: tuple[int, ...]) -> Steps:
    """Return the differences of flat indices to the 27 cells around a voxel."""
    _, rows, columns = shape
    return np.array([(z * rows + y) * columns + x for z, y, x in CELLS])


def is_simple(codes: Codes) -> npt.NDArray[np.bool_]:
    """Tell which neighborhoods are those of simple points.

    Foreground touches by corners, background by faces. A point is simple exactly if the foreground
    around it is one 26-component, and the background cells that share a face or an edge with it
    have one 6-component that touches it by a face (Bertrand and Malandain, 1994).
    """
    near = codes & AROUND
    slots = (near.view(np.uint32) * _HASH) >> np.uint32(32 - SLOT_BITS)
    judged = _JUDGED[slots]
    (new,) = (judged & AROUND != near).nonzero()
    if len(new):
        judged[new] = near[new] | _judge(near[new]).astype(np.int32) << CENTER
        _JUDGED[slots[new]] = judged[new]
    simple: npt.NDArray[np.bool_] = judged & 1 << CENTER != 0
    return simple


def is_end(codes: Codes) -> npt.NDArray[np.bool_]:
    """Tell which neighborhoods hold exactly one foreground voxel: the ends of curves."""
    near = codes & AROUND
    result: npt.NDArray[np.bool_] = (near != 0) & (near & (near - 1) == 0)
    return result


def _judge(near: Codes) -> npt.NDArray[np.bool_]:
    """Tell by its definition which neighborhoods, without their center, are simple."""
    empty = ~near & WITHOUT_CORNERS | BY_FACES
    within = np.concatenate([near, empty])
    found = _connected(within, np.concatenate([near, empty & FACES]))
    simple: npt.NDArray[np.bool_] = found[: len(near)] & found[len(near) :]
    return simple


def _connected(within: Codes, wanted: Codes) -> npt.NDArray[np.bool_]:
    """Tell where the `wanted` cells exist and hang together by way of the cells `within`."""
    first, second = _spread()
    low = (1 << HALF_BITS) - 1
    reached = wanted & -wanted | within & BY_FACES
    while True:
        grown = first[reached & low]
        grown |= second[reached >> CENTER]
        grown &= within
        grown |= reached
        if (grown == reached).all():
            result: npt.NDArray[np.bool_] = (wanted != 0) & (wanted & ~reached == 0)
            return result
        reached = grown


@cache
def _spread() -> tuple[Codes, Codes]:
    """Return, for each half of the cells, those next to any of the cells in a number of 14 bits."""
    return _spread_half(0), _spread_half(CENTER)


def _spread_half(start: int) -> Codes:
    """Return the cells next to any of those in a number, whose first bit is cell `start`."""
    numbers = np.arange(1 << HALF_BITS, dtype=np.int32)
    by_faces = numbers >> (CENTER - start) & 1 > 0
    table = np.zeros_like(numbers)
    for bit in range(HALF_BITS):
        near6, near26 = _near(CELLS[start + bit], 6), _near(CELLS[start + bit], 26)
        table |= np.where(by_faces, near6, near26).astype(np.int32) * (numbers >> bit & 1)
    return table


def _near(cell: tuple[int, ...], neighbors: int) -> int:
    """Return the code of a cell and its neighbors; 0 for the center, which is nobody's."""
    return sum(1 << i for i, other in enumerate(CELLS) if _touch(cell, other, neighbors))


def _touch(a: tuple[int, ...], b: tuple[int, ...], neighbors: int) -> bool:
    """Tell whether two cells, neither of them the center, are neighbors (or the same)."""
    apart = [abs(i - j) for i, j in zip(a, b, strict=True)]
    near = sum(apart) <= 1 if neighbors == 6 else max(apart) <= 1
    return near and CELLS[CENTER] not in (a, b)
