"""A term on pairs of neighbors: alike inside a label, different across its border."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfseg.losses.view import View
from selfseg.records.loss_terms import SmoothnessTerm


class EdgePreservingSmoothness(nn.Module):
    """`mean_same u_a·d² + κ·mean_different u_a·max(0, m − d)²` over pairs of face neighbors.

    d is the total variation distance of the two voxels' probabilities, u_a the weight of the axis.
    Pairs across a border are few, so the two kinds are averaged by themselves (our form of the
    edge-preserving smoothness of Tan et al. 2021). Pairs count where both voxels are annotated;
    with regions every region is a map of its own.
    """

    def __init__(self, options: SmoothnessTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        zero = view.logits.new_zeros(())
        same, different, pairs, borders = zero, zero, zero, zero
        for axis, weight in enumerate(self.options.axis_weights):
            distance, alike, counted = _pairs(view, axis + 2)
            inside = alike & counted
            across = ~alike & counted
            short = (self.options.margin - distance).clamp_min(0)
            same = same + weight * (distance**2 * inside).sum()
            different = different + weight * (short**2 * across).sum()
            pairs, borders = pairs + inside.sum(), borders + across.sum()
        inner = same / pairs.clamp_min(1)
        return inner + self.options.kappa * different / borders.clamp_min(1)


def _pairs(view: View, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance, whether labels agree, and whether both are annotated, along an axis."""
    size = view.logits.shape[axis] - 1

    def both(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.narrow(axis, 0, size), values.narrow(axis, 1, size)

    first, second = both(view.probabilities)
    if view.targets.regions:
        distance = (first - second).abs()
        one, other = both(view.reference)
    else:
        distance = 0.5 * (first - second).abs().sum(dim=1, keepdim=True)
        one, other = both(view.labels[:, None])
    alike = one == other
    if view.known is None:
        return distance, alike, torch.ones_like(alike)
    left, right = both(view.known)
    return distance, alike, (left & right).expand_as(alike)
