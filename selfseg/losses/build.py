"""Build a loss from its options: a weighted sum of terms at every supervised resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.losses.boundary import Boundary
from selfseg.losses.cross_entropy import (
    AdaptiveCrossEntropy,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    TopK,
)
from selfseg.losses.maps import unpack_maps
from selfseg.losses.overlap import GeneralizedDice, SoftDice, Tversky
from selfseg.losses.pieces import BlobDice, SegmentLoss
from selfseg.losses.radii import CenterlineBoundaryDice
from selfseg.losses.segment_weights import SegmentWeights
from selfseg.losses.shape_code import NO_SHAPES, ShapeCode
from selfseg.losses.signed_distance import SignedDistance
from selfseg.losses.skeleton import SkeletonRecall, SoftClDice
from selfseg.losses.smoothness import EdgePreservingSmoothness
from selfseg.losses.view import View
from selfseg.networks.shape_autoencoder import ShapeModel
from selfseg.records.dataset import Targets
from selfseg.records.loss import FULL_RESOLUTION, Loss, LossTerm
from selfseg.records.loss_maps import needed_maps
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


def build_loss(
    options: Loss, targets: Targets, shapes: Mapping[str, ShapeModel] = NO_SHAPES
) -> DeeplySupervisedSum:
    """Return a module (outputs, target) → scalar; see `DeeplySupervisedSum`."""
    return DeeplySupervisedSum(options, targets, shapes)


def depth_weights(count: int, decay: float) -> tuple[float, ...]:
    """Return the weight of each output: decay**i, 0 for the coarsest of several, sum 1.

    With two outputs both count, since one alone would be no deep supervision.
    """
    weights = [decay**depth for depth in range(count)]
    if count > 2:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


class DeeplySupervisedSum(nn.Module):
    """Σ over outputs and terms of weight · term(logits, labels at that resolution).

    Terms on thin structures and those that need maps see the full resolution only, with their whole
    weight. `progress` is the share of the run that is over, which the schedules of the terms
    follow; `step` the step that is made. `memory` holds what terms remember from step to step, and
    belongs into a checkpoint.
    """

    progress: float = 0.0
    step: int = 0

    def __init__(
        self, options: Loss, targets: Targets, shapes: Mapping[str, ShapeModel] = NO_SHAPES
    ) -> None:
        super().__init__()
        self.options = options
        self.targets = targets
        self.maps = needed_maps(options)
        self.has_distances = any(term.kind == "signed_distance" for term in options.terms)
        self.terms = nn.ModuleList(_build_term(term, targets, shapes) for term in options.terms)
        self.memory: dict[str, Tensor] = {}

    def shares(self, count: int) -> tuple[float, ...]:
        """Return the weight of each of so many outputs at this point of the run."""
        weights = self.options.output_weights or depth_weights(
            count, self.options.deep_supervision_decay
        )
        fade = self.options.side_fade**self.progress
        return (weights[0], *(weight * fade for weight in weights[1:count]))

    def forward(
        self, outputs: Sequence[Tensor], target: Tensor, stacked: Tensor | None = None
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            outputs: Logits (b, k, *D), full resolution first; in training predicted distances may
                follow the logits of the first as further channels.
            target: Label indices ≥ 0 (b, *D) at full resolution.
            stacked: The `needed_maps` (b, maps · n, *D) int16, if there are any.
        """
        maps = unpack_maps(stacked, self.maps)
        first, distances = self._parted(outputs[0])
        total = first.new_zeros((), dtype=torch.float32)
        last: list[tuple[int, float, ShapeCode, View]] = []
        for depth, share in enumerate(self.shares(len(outputs))):
            if not share:
                continue
            logits = outputs[depth] if depth else first
            labels = _at_shape(target, logits.shape[2:])
            view = View(logits, labels, self.targets, maps, distances=distances, step=self.step)
            for index, term in enumerate(self.terms):
                options = self.options.terms[index]
                if options.outputs is not None and depth not in options.outputs:
                    continue
                weight = scheduled_weight(options, self.progress)
                if options.kind in FULL_RESOLUTION:
                    weight *= float(depth == 0) / share
                if not weight:
                    continue
                if isinstance(term, ShapeCode):  # weighed against all others, so it comes last
                    last.append((index, weight * share, term, view))
                else:
                    total = total + share * weight * term(view)
        for index, weight, term, view in last:
            value = term(view)
            weight *= term.balance(total, value, view, self.memory, f"term_{index}")
            total = total + weight * value
        return total

    def _parted(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits and predicted distances in (−1, 1) of the main output."""
        count = self.targets.outputs
        if not self.has_distances or output.shape[1] == count:
            return output, None
        precise = torch.promote_types(output.dtype, torch.float32)
        return output[:, :count], output[:, count:].to(precise).tanh()


def scheduled_weight(term: LossTerm, progress: float) -> float:
    """Return the weight of a term when a share of the run is over."""
    if progress < term.start:
        return 0.0
    if not term.ramp:
        return term.weight
    return term.weight * min((progress - term.start) / term.ramp, 1.0)


def _at_shape(target: Tensor, shape: torch.Size) -> Tensor:
    """Return labels at a coarser resolution, by the nearest voxel."""
    if target.shape[1:] == shape:
        return target
    return F.interpolate(target[:, None].float(), shape, mode="nearest-exact")[:, 0].long()


def _build_term(  # noqa: C901, PLR0912 (one line a kind)
    options: LossTerm, targets: Targets, shapes: Mapping[str, ShapeModel]
) -> nn.Module:
    match options:
        case DiceTerm():
            return SoftDice(options)
        case TverskyTerm():
            return Tversky(options)
        case GeneralizedDiceTerm():
            return GeneralizedDice(options)
        case CrossEntropyTerm():
            return CrossEntropy(options)
        case BinaryCrossEntropyTerm():
            return BinaryCrossEntropy()
        case AdaptiveCrossEntropyTerm():
            return AdaptiveCrossEntropy(options)
        case TopKTerm():
            return TopK(options)
        case FocalTerm():
            return Focal(options)
        case SmoothnessTerm():
            return EdgePreservingSmoothness(options)
        case ClDiceTerm():
            return SoftClDice(options)
        case SkeletonRecallTerm():
            return SkeletonRecall(options)
        case BlobDiceTerm():
            return BlobDice(options)
        case BoundaryTerm():
            return Boundary(options)
        case SegmentTerm():
            return SegmentLoss(options)
        case SegmentWeightsTerm():
            return SegmentWeights(options)
        case CbDiceTerm():
            return CenterlineBoundaryDice(options)
        case SignedDistanceTerm():
            return SignedDistance(options)
        case ShapeCodeTerm():
            return ShapeCode(options, targets, shapes)
        case _:
            assert_never(options)
