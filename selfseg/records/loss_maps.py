"""Maps of the reference that terms need besides the labels: their options, and who needs which."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_terms import (
    BlobDiceTerm,
    BoundaryTerm,
    CbDiceTerm,
    SegmentTerm,
    SegmentWeightsTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
)
from selfseg.records.serial import Record

# Values of a stored map (int16) that are no distance: of a label with no surface, because it is
# nowhere (+) or everywhere (-), and of what lies outside the image.
NO_SURFACE = 32_767
OUTSIDE_IMAGE = -32_768

MapKind = Literal["components", "distance", "segments", "tube"]


class LabelMap(Record):
    """What every map has: the labels or regions that it is made of; None stands for all.

    Of the others it is 0.
    """

    labels: tuple[str, ...] | None = None


class ComponentsMap(LabelMap):
    """Numbers of connected components."""

    kind: Literal["components"] = "components"


class DistanceMap(LabelMap):
    """Signed distance to the surface."""

    kind: Literal["distance"] = "distance"


class SegmentsMap(LabelMap):
    """Short pieces of tubes; the options are those of `PiecesTerm`."""

    kind: Literal["segments"] = "segments"
    shortest: int = Field(default=4, ge=1)
    length: int = Field(default=8, ge=1)
    length_radii: float = Field(default=4.0, ge=0.0)
    range_margin: float = Field(default=2.0, ge=0.0)


class TubeMap(LabelMap):
    """The center line, widened by so many voxels."""

    kind: Literal["tube"] = "tube"
    widening: int = Field(default=2, ge=0)


LossMap = ComponentsMap | DistanceMap | SegmentsMap | TubeMap


def map_of(term: LossTerm) -> LossMap | None:
    """Return the map that a term needs; its weight and schedule have no part in it."""
    match term:
        case BlobDiceTerm():
            return ComponentsMap()
        case BoundaryTerm() | CbDiceTerm() | SignedDistanceTerm():
            return DistanceMap(labels=term.labels)
        case SegmentTerm() | SegmentWeightsTerm():
            return SegmentsMap(
                labels=term.labels,
                shortest=term.shortest,
                length=term.length,
                length_radii=term.length_radii,
                range_margin=term.range_margin,
            )
        case SkeletonRecallTerm():
            return TubeMap(labels=term.labels, widening=term.widening)
        case _:
            return None


def needed_maps(loss: Loss) -> tuple[LossMap, ...]:
    """Return the maps that the terms of a loss need, one of a kind, in a fixed order.

    Terms that ask for the same map of different labels share one of all these labels.

    Raises:
        ValueError: Two terms ask for different maps of one kind.
    """
    found: dict[MapKind, LossMap] = {}
    for term in loss.terms:
        wanted = map_of(term)
        if wanted is not None:
            former = found.get(wanted.kind)
            found[wanted.kind] = wanted if former is None else _joined(former, wanted)
    return tuple(found[kind] for kind in sorted(found))


def _joined(first: LossMap, second: LossMap) -> LossMap:
    """Return the map that serves both."""
    options = first.model_dump(exclude={"labels"})
    differing = [name for name, value in options.items() if value != getattr(second, name)]
    if differing:
        found = ", ".join(
            f"{name} {getattr(first, name):g} and {getattr(second, name):g}" for name in differing
        )
        raise ValueError(f"two terms ask for different maps of kind {first.kind!r}: {found}")
    if first.labels is None or second.labels is None:
        return first.model_copy(update={"labels": None})
    every = tuple(dict.fromkeys((*first.labels, *second.labels)))
    return first.model_copy(update={"labels": every})
