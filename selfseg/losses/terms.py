"""The terms that a loss is summed of: (logits, labels) to a scalar."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.records.dataset import Targets
from selfseg.records.loss import CrossEntropyTerm, DiceTerm

SMALLEST_DENOMINATOR = 1e-8


class SoftDice(nn.Module):
    """`−mean((2·I + s) / max(P + G + s, 1e-8))` over samples and foreground labels or regions.

    I, P, G are the sums over annotated space of probability·one-hot, probability, one-hot (Drozdzal
    et al. 2016; smoothing s in both, as nnU-Net has it); with `batch` they also run over the batch.
    Samples without an annotated voxel do not count; without any the loss is 0.
    """

    def __init__(self, options: DiceTerm, targets: Targets) -> None:
        super().__init__()
        self.batch = options.batch
        self.smooth = options.smooth
        self.has_regions = bool(targets.regions)
        self.ignore = targets.ignore_index
        self.members = targets.members

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss from logits (b, k, *D) and labels (b, *D)."""
        logits, target = _precise(logits), target.flatten(1)
        if self.has_regions:
            probabilities = logits.sigmoid().flatten(2)
        else:
            probabilities = logits.softmax(dim=1)[:, 1:].flatten(2)
        annotated = None
        if self.ignore is not None:
            known = target != self.ignore
            annotated = known.any(dim=1)
            probabilities = probabilities * known[:, None]
        reference = member_masks(target, self.members).to(probabilities.dtype)
        intersection = (probabilities * reference).sum(dim=2)
        total = probabilities.sum(dim=2) + reference.sum(dim=2)
        if self.batch:
            intersection, total = intersection.sum(dim=0), total.sum(dim=0)
        ratio = (2 * intersection + self.smooth) / (total + self.smooth).clamp_min(
            SMALLEST_DENOMINATOR
        )
        if annotated is None:
            return -ratio.mean()
        if self.batch:
            return -ratio.mean() * annotated.any()
        return -(ratio.mean(dim=1) * annotated).sum() / annotated.sum().clamp_min(1)


class CrossEntropy(nn.Module):
    """Softmax cross-entropy in float32 or better, a mean over annotated voxels; 0 without any.

    With class weights v it is `−Σ v_y·log p_y / Σ v_y`.
    """

    class_weights: Tensor | None

    def __init__(self, options: CrossEntropyTerm, targets: Targets) -> None:
        super().__init__()
        weights = options.class_weights
        self.ignore = targets.ignore_index
        self.register_buffer(
            "class_weights", None if weights is None else torch.tensor(weights), persistent=False
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss from logits (b, k, *D) and labels (b, *D)."""
        logits = _precise(logits)
        if self.ignore is None:
            return F.cross_entropy(logits, target, self.class_weights)
        total = F.cross_entropy(
            logits, target, self.class_weights, ignore_index=self.ignore, reduction="sum"
        )
        known = target != self.ignore
        if self.class_weights is None:
            return total / known.sum().clamp_min(1)
        weights = self.class_weights[torch.where(known, target, 0)] * known
        return total / weights.sum().clamp_min(SMALLEST_DENOMINATOR)


class BinaryCrossEntropy(nn.Module):
    """Sigmoid cross-entropy in float32 or better, a mean over regions and annotated voxels.

    Without an annotated voxel it is 0.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self.ignore = targets.ignore_index
        self.members = targets.members

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss from logits (b, k, *D) and labels (b, *D)."""
        logits = _precise(logits).flatten(2)
        target = target.flatten(1)
        reference = member_masks(target, self.members).to(logits.dtype)
        if self.ignore is None:
            return F.binary_cross_entropy_with_logits(logits, reference)
        known = (target != self.ignore)[:, None].to(logits.dtype)
        total = F.binary_cross_entropy_with_logits(logits, reference, weight=known, reduction="sum")
        return total / (known.sum() * logits.shape[1]).clamp_min(1)


def member_masks(target: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
    """Return boolean masks (b, k, n) of labels (b, n): of k groups of labels, which may overlap."""
    masks = []
    for group in members:
        mask = target == group[0]
        for index in group[1:]:
            mask |= target == index
        masks.append(mask)
    return torch.stack(masks, dim=1)


def _precise(logits: Tensor) -> Tensor:
    """Return logits in float32 or better: sums over many voxels lose digits in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
