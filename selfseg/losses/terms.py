"""The terms that a loss is summed of: (logits, labels) to a scalar."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.records.loss import CrossEntropyTerm, DiceTerm

SMALLEST_DENOMINATOR = 1e-8


class SoftDice(nn.Module):
    """`−mean((2·I + s) / max(P + G + s, 1e-8))` over samples and foreground labels.

    I, P, G are the sums over space of probability·one-hot, probability, one-hot (Drozdzal et al.
    2016; smoothing s in both, as nnU-Net has it); with `batch` they also run over the batch.
    """

    def __init__(self, options: DiceTerm) -> None:
        super().__init__()
        self.batch = options.batch
        self.smooth = options.smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss from logits (b, k, *D) and labels (b, *D)."""
        probabilities = _precise(logits).softmax(dim=1)[:, 1:].flatten(2)
        labels = torch.arange(1, logits.shape[1], device=target.device).view(1, -1, 1)
        reference = (target.flatten(1)[:, None] == labels).to(probabilities.dtype)
        intersection = (probabilities * reference).sum(dim=2)
        total = probabilities.sum(dim=2) + reference.sum(dim=2)
        if self.batch:
            intersection, total = intersection.sum(dim=0), total.sum(dim=0)
        ratio = (2 * intersection + self.smooth) / (total + self.smooth).clamp_min(
            SMALLEST_DENOMINATOR
        )
        return -ratio.mean()


class CrossEntropy(nn.Module):
    """Softmax cross-entropy in float32 or better, a mean over voxels.

    With class weights v it is `−Σ v_y·log p_y / Σ v_y`.
    """

    class_weights: Tensor | None

    def __init__(self, options: CrossEntropyTerm) -> None:
        super().__init__()
        weights = options.class_weights
        self.register_buffer(
            "class_weights", None if weights is None else torch.tensor(weights), persistent=False
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss from logits (b, k, *D) and labels (b, *D)."""
        return F.cross_entropy(_precise(logits), target, self.class_weights)


def _precise(logits: Tensor) -> Tensor:
    """Return logits in float32 or better: sums over many voxels lose digits in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
