"""Terms that judge every voxel by itself: cross-entropy and its relatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.losses.overlap import SMALLEST_DENOMINATOR
from selfseg.losses.view import View
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    CrossEntropyTerm,
    FocalTerm,
    TopKTerm,
)


class CrossEntropy(nn.Module):
    """Softmax cross-entropy, a mean over annotated voxels; 0 without any.

    With class weights v it is `−Σ v_y·log p_y / Σ v_y`.
    """

    class_weights: Tensor | None

    def __init__(self, options: CrossEntropyTerm) -> None:
        super().__init__()
        self.register_buffer("class_weights", _tensor(options.class_weights), persistent=False)

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        if self.class_weights is None:
            return view.mean(view.surprise)
        if view.known is None:
            return F.cross_entropy(view.logits, view.labels, self.class_weights)
        return _weighted_mean(view.surprise, _of_classes(view, self.class_weights))


class BinaryCrossEntropy(nn.Module):
    """Sigmoid cross-entropy, a mean over regions and annotated voxels; 0 without any."""

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        return view.mean(view.surprise)


class AdaptiveCrossEntropy(nn.Module):
    """`−Σ w·log t / Σ w` with `w = v_y·(1 + α·sg(1 − t)^γ)`, t the probability of the truth.

    Voxels that are segmented wrongly now weigh more; unlike in the focal loss right ones keep the
    weight of their class (our form of the adaptively weighted cross-entropy of Tan et al. 2021).
    """

    class_weights: Tensor | None

    def __init__(self, options: AdaptiveCrossEntropyTerm) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("class_weights", _tensor(options.class_weights), persistent=False)

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        miss = 1 - torch.exp(-view.surprise.detach())
        weights = 1 + self.options.alpha * miss**self.options.gamma
        if self.class_weights is not None:
            weights = weights * _of_classes(view, self.class_weights)
        elif view.known is not None:
            weights = weights * view.known
        return _weighted_mean(view.surprise, weights)


class TopK(nn.Module):
    """Cross-entropy of the worst voxels of a batch: the given share of the annotated ones."""

    def __init__(self, options: TopKTerm) -> None:
        super().__init__()
        self.share = options.share

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        surprise = view.surprise.flatten()
        if view.known is None:
            return surprise.topk(max(round(self.share * len(surprise)), 1)).values.mean()
        # How many are annotated is known on the device only: sort, and cut by rank.
        count = (view.known.sum() * view.surprise.shape[1] * self.share).round().clamp_min(1)
        ranked = surprise.sort(descending=True).values
        chosen = torch.arange(len(ranked), device=ranked.device) < count
        return (ranked * chosen).sum() / count


class Focal(nn.Module):
    """`mean(−(1 − t)^γ·log t)`, t the probability of the truth (Lin et al. 2017)."""

    def __init__(self, options: FocalTerm) -> None:
        super().__init__()
        self.gamma = options.gamma

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        # 1 − exp(−x) without cancellation; its power has no gradient at 0 when γ < 1.
        miss = -torch.expm1(-view.surprise)
        return view.mean(miss.clamp_min(SMALLEST_DENOMINATOR) ** self.gamma * view.surprise)


def _tensor(weights: tuple[float, ...] | None) -> Tensor | None:
    return None if weights is None else torch.tensor(weights)


def _of_classes(view: View, weights: Tensor) -> Tensor:
    """Return the weight of each voxel's class (b, 1, *D), 0 where not annotated."""
    if view.known is None:
        return weights[view.labels][:, None]
    labels = torch.where(view.known[:, 0], view.labels, 0)
    return weights[labels][:, None] * view.known


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    weights = weights.expand_as(values)
    return (values * weights).sum() / weights.sum().clamp_min(SMALLEST_DENOMINATOR)
