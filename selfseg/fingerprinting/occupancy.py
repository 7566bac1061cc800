"""A mask as a small cube around its center of mass, scaled to its size: how alike cases are."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

SIDE = 32
REACH = 2.5  # from the center to the side, in root mean square distances: 1.9 radii of a ball
MOST_CASES = 100  # that are compared in pairs


def pack_occupancy(mask: Mask, spacing_mm: Floats) -> str:
    """Return the mask sampled at 32 places per axis around its center, as text.

    Args:
        mask: Of two or three axes, not empty.
        spacing_mm: Voxel size, per axis.
    """
    places = np.nonzero(mask)
    center = [float(along.mean()) for along in places]
    extent = np.array([along.var() for along in places]) + 1 / 12  # a voxel has its own
    spread = extent * spacing_mm**2
    offsets = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * REACH * np.sqrt(spread.sum())
    samples, within = [], []
    for axis, size in enumerate(mask.shape):
        index = np.rint(center[axis] + offsets / spacing_mm[axis]).astype(np.intp)
        within.append((index >= 0) & (index < size))
        samples.append(index.clip(0, size - 1))
    found = mask[np.ix_(*samples)]
    for axis, valid in enumerate(within):
        np.moveaxis(found, axis, 0)[~valid] = False
    return base64.b64encode(zlib.compress(np.packbits(found).tobytes(), 9)).decode("ascii")


def unpack_occupancy(text: str) -> Mask:
    """Return the samples, flattened: 32² or 32³ of them."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(packed).astype(bool)


def mean_pairwise_dice(occupancies: Sequence[str]) -> float | None:
    """Return the mean Dice over pairs of cases; None without a pair.

    Of more than 100 cases 100, evenly spread, are compared. Slices are not compared with volumes:
    what the first case is, counts.
    """
    chosen = np.linspace(0, len(occupancies) - 1, min(len(occupancies), MOST_CASES)).astype(int)
    masks = [unpack_occupancy(occupancies[index]) for index in chosen]
    alike = [mask for mask in masks if mask.size == masks[0].size and mask.any()]
    if len(alike) < 2:
        return None
    rows = np.stack(alike).astype(np.float32)
    sizes = rows.sum(axis=1)
    dice = 2 * (rows @ rows.T) / (sizes[:, None] + sizes)
    return float(dice[np.triu_indices(len(alike), 1)].mean())
