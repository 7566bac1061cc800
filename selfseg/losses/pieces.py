"""Terms on pieces of the reference: connected components, and short segments of tubes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.losses.maps import MOST_PIECES, required
from selfseg.losses.overlap import SMALLEST_DENOMINATOR
from selfseg.losses.view import View
from selfseg.records.loss_terms import BlobDiceTerm, SegmentTerm


class BlobDice(nn.Module):
    """`−mean((2·I + s) / (P + V + s))` over the components of a batch (Kofler et al. 2023).

    I is the probability summed over a component of V voxels, P that over the component and all
    that is no component: other components take no part. Without any component the loss is 0.
    """

    def __init__(self, options: BlobDiceTerm) -> None:
        super().__init__()
        self.smooth = options.smooth

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        ids = required(view.maps.components).flatten(2).long()
        probabilities, reference = view.foreground.flatten(2), view.reference.flatten(2)
        inside, size = sums_by_piece(ids, probabilities, reference)
        outside = (probabilities * (ids == 0)).sum(dim=2, keepdim=True)
        total = inside + outside + size + self.smooth
        ratio = (2 * inside + self.smooth) / total.clamp_min(SMALLEST_DENOMINATOR)
        counts = size > 0
        return -(ratio * counts).sum() / counts.sum().clamp_min(1)


class SegmentLoss(nn.Module):
    """Thickness and center-line recall of every segment, and what is predicted far from all.

    For segment s with the area A_s of its reference, its center line of n_s voxels and
    probability p: T = A_s/n_s, T~ the same of p, c = mean of p on the center line;

        Σ_s v_s·[huber((T~ − T)/T, δ) + (1 − c)] / Σ_s v_s  +  mean of p² far from all segments,

    v_s = T^−1/2, so thin ones count more. A differentiable form of the segment-level loss of Yan
    et al. 2018: no center line of the prediction is needed. Without any segment only the second
    part is left.
    """

    def __init__(self, options: SegmentTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        labels = self.options.labels
        segments = view.of(labels, required(view.maps.segments)).flatten(2).long()
        ids, on_line = segments.abs(), (segments < 0).to(view.logits.dtype)
        p = view.of(labels, view.foreground).flatten(2)
        y = view.of(labels, view.reference).flatten(2)
        area, soft_area, found, length = sums_by_piece(ids, y, p, p * on_line, on_line)
        counts = (length > 0) & (area > 0)
        length = length.clamp_min(1)
        thickness = torch.where(counts, area / length, 1.0)
        relative = (soft_area / length - thickness) / thickness
        delta = self.options.huber_delta
        error = F.huber_loss(relative, torch.zeros_like(relative), "none", delta)
        weights = thickness.rsqrt() * counts
        pieces = (weights * (error + 1 - found / length)).sum() / weights.sum().clamp_min(
            SMALLEST_DENOMINATOR
        )
        far = (ids == 0) & (y == 0)
        if view.known is not None:
            far = far & view.known.flatten(2)
        stray = (p.square() * far).sum() / far.sum().clamp_min(1)
        return pieces + stray


def sums_by_piece(ids: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Sum values (b, n, voxels) by id; each (b, n, MOST_PIECES), id 1 first."""
    shape = (*ids.shape[:2], MOST_PIECES + 1)
    zeros = values[0].new_zeros(shape)
    return tuple(zeros.scatter_add(2, ids, value)[..., 1:] for value in values)
