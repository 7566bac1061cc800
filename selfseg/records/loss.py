"""Options of every loss term; a loss is a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.serial import Record


class Term(Record):
    """What every term has.

    Attributes:
        weight: In the sum.
        start: Share of the run before which the term is left out.
        ramp: Share of the run over which its weight then grows to the full one.
    """

    weight: float = 1.0
    start: float = Field(default=0.0, ge=0.0, lt=1.0)
    ramp: float = Field(default=0.0, ge=0.0, le=1.0)


class DiceTerm(Term):
    """Soft Dice over foreground labels or regions; `batch`: sums run over the batch as well."""

    kind: Literal["dice"] = "dice"
    batch: bool = False
    smooth: float = 1e-5


class TverskyTerm(Term):
    """Tversky: `alpha` weighs false positives, `beta` misses; `gamma` other than 1 is focal."""

    kind: Literal["tversky"] = "tversky"
    batch: bool = False
    alpha: float = Field(default=0.3, ge=0.0)
    beta: float = Field(default=0.7, ge=0.0)
    gamma: float = Field(default=1.0, gt=0.0)
    smooth: float = 1e-5


class GeneralizedDiceTerm(Term):
    """Dice whose labels are weighed by their inverse squared size."""

    kind: Literal["generalized_dice"] = "generalized_dice"
    batch: bool = False
    smooth: float = 1e-5


class CrossEntropyTerm(Term):
    """Softmax cross-entropy, mean over voxels; weighted by class where weights are given."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    class_weights: tuple[float, ...] | None = None


class BinaryCrossEntropyTerm(Term):
    """Sigmoid cross-entropy, mean over regions and voxels."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"


class AdaptiveCrossEntropyTerm(Term):
    """Cross-entropy (of labels or regions) in which voxels that are wrong now weigh more.

    A voxel weighs `1 + alpha·(1 − t)^gamma`, t the probability of the truth.
    """

    kind: Literal["adaptive_cross_entropy"] = "adaptive_cross_entropy"
    alpha: float = Field(default=2.0, ge=0.0)
    gamma: float = Field(default=1.0, gt=0.0)
    class_weights: tuple[float, ...] | None = None


class TopKTerm(Term):
    """Cross-entropy (of labels or regions) of the worst voxels: `share` of the batch."""

    kind: Literal["top_k"] = "top_k"
    share: float = Field(default=0.1, gt=0.0, le=1.0)


class FocalTerm(Term):
    """Focal loss (of labels or regions): easy voxels fade with exponent `gamma`."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, gt=0.0)


class SmoothnessTerm(Term):
    """Edge-preserving smoothness over face neighbors.

    `axis_weights` (one an axis, Z, Y, X or Y, X): 1 for the finest axis, less across thick slices;
    `kappa` weighs pairs across a border, which should differ by `margin`.
    """

    kind: Literal["smoothness"] = "smoothness"
    weight: float = 0.5
    axis_weights: tuple[float, ...]
    kappa: float = 1.0
    margin: float = 1.0


class ClDiceTerm(Term):
    """Soft clDice at full resolution; `iterations` is at least the largest radius in voxels."""

    kind: Literal["cl_dice"] = "cl_dice"
    iterations: int = Field(ge=1, le=10)


class BlobDiceTerm(Term):
    """Dice of every connected component by itself, so that small ones count as much."""

    kind: Literal["blob_dice"] = "blob_dice"
    smooth: float = 1e-5


class BoundaryTerm(Term):
    """Mean of probability times signed distance to the true surface, in voxels of the finest axis.

    It can be negative; alone it has no use, so it is added to a region term.
    """

    kind: Literal["boundary"] = "boundary"
    weight: float = 0.01


class SkeletonRecallTerm(Term):
    """Recall on the widened center line, at full resolution; keep a region term beside it."""

    kind: Literal["skeleton_recall"] = "skeleton_recall"
    smooth: float = 1e-5


class SegmentTerm(Term):
    """Thickness and presence of every short piece of a tube, at full resolution, differentiable."""

    kind: Literal["segments"] = "segments"
    weight: float = 0.5


class ShapeCodeTerm(Term):
    """Distance between the codes of predicted and true shape, under a frozen shape model.

    Only samples that show a whole organ count, at full resolution.

    Attributes:
        labels: Labels or regions.
        features: Weight of the model's feature maps beside its code.
        jitter: Most that a side of the box moves at random, as a share of the box.
        gradient_share: The term is weighed so that its gradient is this share of the others'.
        refresh: Steps after which that weight is measured again.
        average: Decay of the running averages of both gradients.
        most: Largest such weight.
    """

    kind: Literal["shape_code"] = "shape_code"
    start: float = Field(default=0.2, ge=0.0, lt=1.0)
    ramp: float = Field(default=0.2, ge=0.0, le=1.0)
    labels: tuple[str, ...] = Field(min_length=1)
    features: float = Field(default=0.25, ge=0.0)
    jitter: float = Field(default=0.05, ge=0.0, lt=0.5)
    gradient_share: float = Field(default=0.1, gt=0.0)
    refresh: int = Field(default=100, ge=1)
    average: float = Field(default=0.5, ge=0.0, lt=1.0)
    most: float = Field(default=10.0, gt=0.0)


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
    | ShapeCodeTerm,
    Field(discriminator="kind"),
]


MapKind = Literal["components", "distance", "segments", "tube"]

# What a term needs besides the label map, made from the reference before training.
MAP_OF_TERM: Mapping[str, MapKind] = MappingProxyType(
    {
        "blob_dice": "components",
        "boundary": "distance",
        "segments": "segments",
        "skeleton_recall": "tube",
    }
)
# Terms on thin structures see the full resolution only; so do all that need a map.
FULL_RESOLUTION = ("cl_dice", "shape_code", *MAP_OF_TERM)


class Loss(Record):
    """A weighted sum of terms.

    With deep supervision the output at depth i weighs `deep_supervision_decay ** i`; the coarsest
    gets 0 if there are more than two; the weights are normalized to sum 1. `output_weights` stand
    instead of that, as they are; those after the first are multiplied by `side_fade` in the course
    of the run (Dou et al. 2017 lower the weights of side outputs).
    """

    kind: Literal["sum"] = "sum"
    terms: tuple[LossTerm, ...]
    deep_supervision_decay: float = 0.5
    output_weights: tuple[float, ...] | None = None
    side_fade: float = Field(default=1.0, ge=0.0, le=1.0)
