"""Further views of the reference that some terms need: made once a case, cut with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfseg.records.loss_maps import NO_SURFACE, OUTSIDE_IMAGE, LossMap

# Maps are stored as int16: distances in these parts of a voxel of the finest axis.
DISTANCE_PARTS = 64
MOST_PIECES = 32_767  # components or segments of a case that an id can tell apart


@dataclass(frozen=True)
class Maps:
    """Maps of a batch, (b, n, *D) for n foreground labels or regions; None if no term needs it.

    Attributes:
        distance: Signed distance to the surface in voxels of the finest axis, float, negative
            inside, 0 on voxels just inside; beyond what int16 holds it stays at the limit. Without
            a surface it is infinite, inside or outside; outside the image it is no number.
        tube: Bool: the center line, widened.
        components: Number of the connected component, 0 outside.
        segments: Number of the piece of a tube that a voxel is near to, 0 far from all; negative
            on the center line of the piece.
    """

    distance: Tensor | None = None
    tube: Tensor | None = None
    components: Tensor | None = None
    segments: Tensor | None = None


def unpack_maps(stacked: Tensor | None, made: Sequence[LossMap]) -> Maps:
    """Return the maps of a stack (b, maps · n, *D) int16."""
    if stacked is None or not made:
        return Maps()
    chunks = stacked.chunk(len(made), dim=1)
    parts = {options.kind: chunk for options, chunk in zip(made, chunks, strict=True)}
    distance, tube = parts.get("distance"), parts.get("tube")
    return Maps(
        distance=None if distance is None else unpack_distance(distance),
        tube=None if tube is None else tube > 0,
        components=parts.get("components"),
        segments=parts.get("segments"),
    )


def unpack_distance(parts: Tensor) -> Tensor:
    """Return distances in voxels (float32) of a stored map; see `Maps.distance`."""
    distance = parts.to(torch.float32) / DISTANCE_PARTS
    distance = torch.where(parts.abs() == NO_SURFACE, distance * torch.inf, distance)
    return distance.masked_fill(parts == OUTSIDE_IMAGE, torch.nan)


def finite_distance(maps: Maps) -> Tensor:
    """Return distances, 0 where there is no surface and outside the image.

    Raises:
        ValueError: There are none.
    """
    return torch.nan_to_num(required(maps.distance), nan=0.0, posinf=0.0, neginf=0.0)


def required(part: Tensor | None) -> Tensor:
    """Return a map that a term cannot do without.

    Raises:
        ValueError: It is not there.
    """
    if part is None:
        raise ValueError("the loss needs a map that the batch does not have")
    return part
