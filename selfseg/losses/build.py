"""Build a loss from its options: a weighted sum of terms at every supervised resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.losses.terms import BinaryCrossEntropy, CrossEntropy, SoftDice
from selfseg.records.dataset import Targets
from selfseg.records.loss import (
    BinaryCrossEntropyTerm,
    CrossEntropyTerm,
    DiceTerm,
    Loss,
    LossTerm,
)


def build_loss(options: Loss, targets: Targets) -> nn.Module:
    """Return a module (outputs, target) → scalar; see `DeeplySupervisedSum`."""
    return DeeplySupervisedSum(options, targets)


def depth_weights(count: int, decay: float) -> tuple[float, ...]:
    """Return the weight of each output: decay**i, 0 for the coarsest of several, sum 1.

    With two outputs both count, since one alone would be no deep supervision.
    """
    weights = [decay**depth for depth in range(count)]
    if count > 2:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


class DeeplySupervisedSum(nn.Module):
    """Σ over outputs and terms of weight · term(logits, labels at that resolution)."""

    def __init__(self, options: Loss, targets: Targets) -> None:
        super().__init__()
        self.decay = options.deep_supervision_decay
        self.weights = tuple(term.weight for term in options.terms)
        self.terms = nn.ModuleList(_build_term(term, targets) for term in options.terms)

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            outputs: Logits (b, k, *D), full resolution first.
            target: Label indices ≥ 0 (b, *D) at full resolution.
        """
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for depth, share in enumerate(depth_weights(len(outputs), self.decay)):
            if not share:
                continue
            logits = outputs[depth]
            labels = _at_shape(target, logits.shape[2:])
            for weight, term in zip(self.weights, self.terms, strict=True):
                total = total + share * weight * term(logits, labels)
        return total


def _at_shape(target: Tensor, shape: torch.Size) -> Tensor:
    """Return labels at a coarser resolution, by the nearest voxel."""
    if target.shape[1:] == shape:
        return target
    return F.interpolate(target[:, None].float(), shape, mode="nearest-exact")[:, 0].long()


def _build_term(options: LossTerm, targets: Targets) -> nn.Module:
    match options:
        case DiceTerm():
            return SoftDice(options, targets)
        case CrossEntropyTerm():
            return CrossEntropy(options, targets)
        case BinaryCrossEntropyTerm():
            return BinaryCrossEntropy(targets)
        case _:
            assert_never(options)
