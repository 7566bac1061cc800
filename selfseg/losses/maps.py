"""Further views of the reference that some terms need: made once a case, cut with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfseg.records.loss import MAP_OF_TERM, Loss, MapKind

# Maps are stored as int16: distances in these parts of a voxel of the finest axis.
DISTANCE_PARTS = 64
MOST_PIECES = 32_767  # components or segments of a case that an id can tell apart


def needed_maps(loss: Loss) -> tuple[MapKind, ...]:
    """Return the kinds of map that the terms of a loss need, each once, in a fixed order."""
    kinds = {MAP_OF_TERM[term.kind] for term in loss.terms if term.kind in MAP_OF_TERM}
    return tuple(sorted(kinds))


@dataclass(frozen=True)
class Maps:
    """Maps of a batch, (b, n, *D) for n foreground labels or regions; None if no term needs it.

    Attributes:
        distance: Signed distance to the surface in voxels of the finest axis, float, negative
            inside, 0 on voxels just inside; beyond what int16 holds it stays at the limit.
        tube: Bool: the center line, widened.
        components: Number of the connected component, 0 outside.
        segments: Number of the piece of a tube that a voxel is near to, 0 far from all; negative
            on the center line of the piece.
    """

    distance: Tensor | None = None
    tube: Tensor | None = None
    components: Tensor | None = None
    segments: Tensor | None = None


def unpack_maps(stacked: Tensor | None, kinds: Sequence[MapKind]) -> Maps:
    """Return the maps of a stack (b, kinds · n, *D) int16."""
    if stacked is None or not kinds:
        return Maps()
    parts = dict(zip(kinds, stacked.chunk(len(kinds), dim=1), strict=True))
    distance, tube = parts.get("distance"), parts.get("tube")
    return Maps(
        distance=None if distance is None else distance.to(torch.float32) / DISTANCE_PARTS,
        tube=None if tube is None else tube > 0,
        components=parts.get("components"),
        segments=parts.get("segments"),
    )
