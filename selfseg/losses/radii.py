"""Centerline boundary Dice: clDice that knows how thick a tube is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfseg.losses.maps import finite_distance
from selfseg.losses.skeleton import skeleton_and_depth
from selfseg.losses.view import View
from selfseg.records.loss_terms import CbDiceTerm


class CenterlineBoundaryDice(nn.Module):
    """`1 − 2·T_p·T_s/(T_p + T_s)` with center lines that weigh by radius (Shi et al. 2024).

    A mask m has a soft skeleton s, a depth d at every voxel, clipped at the largest one R on its
    skeleton and divided by it: q; its skeleton weighs w = s·((R − d + r)/R)^(axes − 1), r the
    smallest depth on it, so that thin branches weigh more. With p predicted and g true,

        T_p = (Σ w_p·q_g + 1) / (Σ w_p·(s_g·q_g + (1 − s_g)·q_p) + 1),

    and T_s with both exchanged: how deep a center line lies in the other mask, over how deep it
    should. Sums run over space and batch, the loss is a mean over labels. The true depth is the
    distance to the surface, the predicted one is counted in soft erosions, so it has a gradient.
    """

    def __init__(self, options: CbDiceTerm) -> None:
        super().__init__()
        self.iterations, self.labels = options.iterations, options.labels

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        predicted = view.of(self.labels, view.foreground)
        reference = view.of(self.labels, view.reference)
        distance = view.of(self.labels, finite_distance(view.maps))
        line, depth = skeleton_and_depth(predicted, self.iterations)
        true_line, _ = skeleton_and_depth(reference, self.iterations)
        weight, depth = _weighted(line, depth)
        true_weight, true_depth = _weighted(true_line, (1 - distance).clamp_min(1) * reference)
        precision = _share(weight, true_depth, true_line, depth)
        recall = _share(true_weight, depth, line, true_depth)
        return (1 - 2 * precision * recall / (precision + recall)).mean()


def _weighted(line: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of a skeleton and the relative depth; both (b, n, *D)."""
    space = tuple(range(2, line.ndim))
    on_line, known = line > 0.5, depth.detach()
    largest = torch.where(on_line, known, 0).amax(space, keepdim=True).clamp_min(1)
    smallest = torch.where(on_line, known, torch.inf).amin(space, keepdim=True).clamp_min(1)
    thinness = (largest - known + smallest.minimum(largest)) / largest
    weight = line * thinness.clamp_min(0) ** (len(space) - 1)
    return weight, depth.minimum(largest) / largest


def _share(weight: Tensor, other: Tensor, other_line: Tensor, own: Tensor) -> Tensor:
    """Return by label how deep a weighed skeleton lies in the other mask, over what it should."""
    axes = (0, *range(2, weight.ndim))
    due = other_line * other + (1 - other_line) * own
    return ((weight * other).sum(axes) + 1) / ((weight * due).sum(axes) + 1)
