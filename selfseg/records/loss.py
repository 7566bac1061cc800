"""A loss: a weighted sum of terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    BinaryCrossEntropyTerm,
    BlobDiceTerm,
    BoundaryTerm,
    CbDiceTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    GeneralizedDiceTerm,
    SegmentTerm,
    SegmentWeightsTerm,
    ShapeCodeTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
    SmoothnessTerm,
    TopKTerm,
    TverskyTerm,
)
from selfseg.records.serial import Record

LossTerm = Annotated[
    DiceTerm
    | TverskyTerm
    | GeneralizedDiceTerm
    | CrossEntropyTerm
    | BinaryCrossEntropyTerm
    | AdaptiveCrossEntropyTerm
    | TopKTerm
    | FocalTerm
    | SmoothnessTerm
    | ClDiceTerm
    | BlobDiceTerm
    | BoundaryTerm
    | SkeletonRecallTerm
    | SegmentTerm
    | SegmentWeightsTerm
    | CbDiceTerm
    | SignedDistanceTerm
    | ShapeCodeTerm,
    Field(discriminator="kind"),
]
# Terms on voxels and overlap alone can judge any data set: they need no map and name no label.
SIMPLE = (
    "adaptive_cross_entropy", "binary_cross_entropy", "cross_entropy", "dice", "focal",
    "generalized_dice", "top_k", "tversky",
)  # fmt: skip
# Terms on thin structures see the full resolution only; so do all that need a map.
FULL_RESOLUTION = (
    "blob_dice", "boundary", "cb_dice", "cl_dice", "segment_weights", "segments",
    "shape_code", "signed_distance", "skeleton_recall",
)  # fmt: skip


class Loss(Record):
    """A weighted sum of terms.

    With deep supervision the output at depth i weighs `deep_supervision_decay ** i`; the coarsest
    gets 0 if there are more than two; the weights are normalized to sum 1. `output_weights` stand
    instead of that, as they are; those after the first are multiplied by `side_fade` in the course
    of the run (Dou et al. 2017 lower the weights of side outputs).

    Attributes:
        encoder_heads: Encoder stages of a plain network, from the first below full resolution, that
            get a head at full resolution, in training only. These outputs follow those of the
            decoder, the deepest first, and `output_weights` names a weight for each.
    """

    kind: Literal["sum"] = "sum"
    terms: tuple[LossTerm, ...]
    deep_supervision_decay: float = 0.5
    output_weights: tuple[float, ...] | None = None
    side_fade: float = Field(default=1.0, ge=0.0, le=1.0)
    encoder_heads: int = Field(default=0, ge=0)
