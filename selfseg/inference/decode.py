"""From probabilities to labels, slab by slab: whatever made them, and however many were summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from selfseg.arrays import Indices, index_type
from selfseg.io.store import slabs
from selfseg.records.dataset import Targets

Floats = npt.NDArray[np.float32]


class Foreground(Protocol):
    """Probabilities (c, Z, Y, X) of labels or regions that can be sliced: an array or a file."""

    @property
    def shape(self) -> Sequence[int]:
        """Size per axis."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return a part."""
        ...


def decode(sources: Sequence[Foreground], targets: Targets, *, full: float) -> Indices:
    """Return label indices (Z, Y, X) of the sum of some probabilities.

    Labels exclude each other: the largest wins, and background is what they leave of `full`. Of
    regions, those above one half of `full` are written in their order, later ones over earlier.

    Args:
        sources: Each (c, Z, Y, X), in the order of `targets.names`.
        targets: What the channels mean.
        full: The sum where all are certain.
    """
    _, *shape = sources[0].shape
    result: Indices = np.zeros(shape, index_type(len(targets.labels)))
    for z, y in slabs(shape):
        part = result[z, y]
        channels = (_sum(sources, index, z, y) for index in range(len(targets.names)))
        if targets.regions:
            for region, value in zip(targets.regions, channels, strict=True):
                part[value > full / 2] = targets.index(region.value)
            continue
        best, total = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.float32)
        for index, value in enumerate(channels, start=1):
            if value.any():
                part[value > best] = index
                np.maximum(best, value, out=best)
                total += value
        part[full - total >= best] = 0
    return result


def _sum(sources: Sequence[Foreground], index: int, z: slice, y: slice) -> Floats:
    total = np.array(sources[0][index, z, y], np.float32)
    for source in sources[1:]:
        total += np.asarray(source[index, z, y], np.float32)
    return total
