"""Options of every loss term."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfseg.records.serial import Record


class Term(Record):
    """What every term has.

    Attributes:
        weight: In the sum.
        start: Share of the run before which the term is left out.
        ramp: Share of the run over which its weight then grows to the full one.
        outputs: Numbers of the network's outputs that it judges, 0 the main one; None for all.
    """

    weight: float = 1.0
    start: float = Field(default=0.0, ge=0.0, lt=1.0)
    ramp: float = Field(default=0.0, ge=0.0, le=1.0)
    outputs: tuple[int, ...] | None = None


class LabelTerm(Term):
    """A term that may be for some labels only, such as those that are tubes.

    Attributes:
        labels: Names of labels or regions; None stands for all.
    """

    labels: tuple[str, ...] | None = None


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


class ClDiceTerm(LabelTerm):
    """Soft clDice at full resolution; `iterations` is at least the largest radius in voxels."""

    kind: Literal["cl_dice"] = "cl_dice"
    iterations: int = Field(ge=1, le=10)


class CbDiceTerm(LabelTerm):
    """clDice whose center lines weigh by the radius of the tube, at full resolution.

    Thin branches weigh more, and a center line must lie deep inside the other mask. `iterations` is
    at least the largest radius in voxels.
    """

    kind: Literal["cb_dice"] = "cb_dice"
    iterations: int = Field(ge=1, le=10)


class BlobDiceTerm(Term):
    """Dice of every connected component by itself, so that small ones count as much."""

    kind: Literal["blob_dice"] = "blob_dice"
    smooth: float = 1e-5


class BoundaryTerm(LabelTerm):
    """Mean of probability times signed distance to the true surface, in voxels of the finest axis.

    It can be negative; alone it has no use, so it is added to a region term.
    """

    kind: Literal["boundary"] = "boundary"
    weight: float = 0.01


class SignedDistanceTerm(LabelTerm):
    """Signed distances by a head of their own, beside the segmentation, in training only.

    Attributes:
        consistency: Weight of the agreement of distances and segmentation.
        steepness: Of the sigmoid that makes a segmentation of distances.
    """

    kind: Literal["signed_distance"] = "signed_distance"
    weight: float = 0.5
    consistency: float = Field(default=0.1, ge=0.0)
    steepness: float = Field(default=50.0, gt=0.0)


class SkeletonRecallTerm(LabelTerm):
    """Recall on the center line, widened by `widening` voxels, at full resolution.

    Keep a region term beside it.
    """

    kind: Literal["skeleton_recall"] = "skeleton_recall"
    smooth: float = 1e-5
    widening: int = Field(default=2, ge=0)


class PiecesTerm(LabelTerm):
    """A term on short pieces of tubes.

    Attributes:
        shortest: Curves of fewer voxels of center line are dropped.
        length: Voxels of center line of a piece, about.
        length_radii: The same in radii of the tube, where that is more.
        range_margin: Voxels around a tube that still belong to its piece.
    """

    shortest: int = Field(default=4, ge=1)
    length: int = Field(default=8, ge=1)
    length_radii: float = Field(default=4.0, ge=0.0)
    range_margin: float = Field(default=2.0, ge=0.0)


class SegmentTerm(PiecesTerm):
    """Thickness and presence of every short piece of a tube, at full resolution, differentiable.

    Errors of thickness relative to the true one cost their square up to `huber_delta`.
    """

    kind: Literal["segments"] = "segments"
    weight: float = 0.5
    huber_delta: float = Field(default=0.5, gt=0.0)


class SegmentWeightsTerm(PiecesTerm):
    """Cross-entropy that weighs voxels by how well their piece of a tube is segmented now.

    The segment-level loss as Yan et al. 2018 released it; at full resolution.

    Attributes:
        class_weights: Of background far from all pieces, background near one, and foreground.
        largest: Weights of pieces are clipped to [1, largest]; None leaves them as they are.
        every: Steps from one thinning of the prediction to the next (1 in 2D; 5 spares time in 3D).
            In between, the true center line inside the prediction stands for the predicted one.
    """

    kind: Literal["segment_weights"] = "segment_weights"
    length_radii: float = Field(default=0.0, ge=0.0)
    class_weights: tuple[float, float, float] = (0.2, 0.35, 0.8)
    largest: float | None = Field(default=None, ge=1.0)
    every: int = Field(default=1, ge=1)


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
