"""Terms that compare regions: Dice and its relatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfseg.losses.view import View
from selfseg.records.loss_terms import DiceTerm, GeneralizedDiceTerm, TverskyTerm

SMALLEST_DENOMINATOR = 1e-8


class Sums(NamedTuple):
    """Sums over annotated space, each (b, n); (1, n) if they run over the batch as well.

    Attributes:
        both: Σ p·g of probability p and reference g.
        predicted: Σ p.
        reference: Σ g.
        counts: Rows with an annotated voxel, bool; None if all are.
    """

    both: Tensor
    predicted: Tensor
    reference: Tensor
    counts: Tensor | None

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of (b, n) over the rows that count; 0 without any."""
        if self.counts is None:
            return values.mean()
        return (values.mean(dim=1) * self.counts).sum() / self.counts.sum().clamp_min(1)


def region_sums(view: View, *, batch: bool) -> Sums:
    """Sum probability and reference over space, with `batch` also over the batch."""
    foreground, reference = view.foreground.flatten(2), view.reference.flatten(2)
    both, predicted, truth = (foreground * reference).sum(2), foreground.sum(2), reference.sum(2)
    counts = None if view.known is None else view.known.flatten(1).any(dim=1)
    if not batch:
        return Sums(both, predicted, truth, counts)
    both, predicted, truth = (part.sum(0, keepdim=True) for part in (both, predicted, truth))
    return Sums(both, predicted, truth, None if counts is None else counts.any(0, keepdim=True))


class SoftDice(nn.Module):
    """`−mean((2·I + s) / max(P + G + s, 1e-8))` over samples and foreground labels or regions.

    I, P, G are the sums over annotated space of probability·one-hot, probability, one-hot (Drozdzal
    et al. 2016; smoothing s in both, as nnU-Net has it); with `batch` they also run over the batch.
    Samples without an annotated voxel do not count; without any the loss is 0.
    """

    def __init__(self, options: DiceTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        sums = region_sums(view, batch=self.options.batch)
        total = sums.predicted + sums.reference + self.options.smooth
        ratio = (2 * sums.both + self.options.smooth) / total.clamp_min(SMALLEST_DENOMINATOR)
        return -sums.mean(ratio)


class Tversky(nn.Module):
    """`mean((1 − (I + s)/(I + α·(P − I) + β·(G − I) + s))^γ)` with the sums of `SoftDice`.

    α weighs false positives, β misses (Salehi et al. 2017); γ < 1 is the focal form with exponent
    1/γ of Abraham & Khan 2019.
    """

    def __init__(self, options: TverskyTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        options, sums = self.options, region_sums(view, batch=self.options.batch)
        wrong = options.alpha * (sums.predicted - sums.both)
        missed = options.beta * (sums.reference - sums.both)
        whole = (sums.both + wrong + missed + options.smooth).clamp_min(SMALLEST_DENOMINATOR)
        # (wrong + missed)/whole is 1 − index without cancellation; a power below 1 needs it > 0.
        return sums.mean(((wrong + missed) / whole).clamp_min(1e-6) ** options.gamma)


class GeneralizedDice(nn.Module):
    """`1 − 2·Σ_l w_l·I_l / Σ_l w_l·(P_l + G_l)`, w_l = 1/G_l² (Sudre et al. 2017).

    Labels that are absent weigh as much as the rarest that is there.
    """

    def __init__(self, options: GeneralizedDiceTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        sums = region_sums(view, batch=self.options.batch)
        present = sums.reference > 0
        weights = torch.where(present, sums.reference.clamp_min(1) ** -2, 0)
        rarest = weights.amax(dim=1, keepdim=True)
        weights = torch.where(present, weights, torch.where(rarest > 0, rarest, 1.0))
        both = 2 * (weights * sums.both).sum(dim=1, keepdim=True)
        total = (weights * (sums.predicted + sums.reference)).sum(dim=1, keepdim=True)
        smooth = self.options.smooth * weights.amax(dim=1, keepdim=True)
        return sums.mean(1 - (both + smooth) / (total + smooth))
