"""A term on signed distances that a head of its own predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfseg.losses.maps import required
from selfseg.losses.view import View
from selfseg.records.loss import SignedDistanceTerm

SMOOTH = 1e-5


class SignedDistance(nn.Module):
    """`mean|ŝ − s| − (I + e)/(I + Σŝ² + Σs² + e) + c·mean (sigmoid(−k·ŝ) − p)²`, I = Σ ŝ·s.

    s is the distance to the surface over the largest one, −1 to 0 inside and 0 to 1 outside (of
    the patch); ŝ is predicted, p the probability (Xue et al. 2020; the last part is ours). The
    lowest value is −1/3. Only training has a head for ŝ: where no gradient is asked for, it may be
    missing, and the loss is 0.
    """

    def __init__(self, options: SignedDistanceTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        found = view.distances
        if found is None:
            if torch.is_grad_enabled():
                raise ValueError("the loss needs a head for distances, and the network has none")
            return view.logits.new_zeros(())
        labels = self.options.labels
        true = relative_distance(view.of(labels, required(view.maps.distance)), view.known)
        counted = found if view.known is None else found * view.known
        axes = (0, *range(2, found.ndim))
        both, squares = (counted * true).sum(axes), (counted**2 + true**2).sum(axes)
        product = (both + SMOOTH) / (both + squares + SMOOTH)
        inside = torch.sigmoid(-self.options.steepness * found)
        apart = view.mean((inside - view.of(labels, view.foreground)) ** 2)
        return view.mean((found - true).abs()) - product.mean() + self.options.consistency * apart


def relative_distance(distance: Tensor, known: Tensor | None) -> Tensor:
    """Return signed distances (b, n, *D) over the largest inside and outside; 0 where unknown."""
    if known is not None:
        distance = distance * known
    space = tuple(range(2, distance.ndim))
    inside, outside = (-distance).clamp_min(0), distance.clamp_min(0)
    deepest, farthest = (part.amax(space, keepdim=True) for part in (inside, outside))
    return outside / farthest.clamp_min(SMOOTH) - inside / deepest.clamp_min(SMOOTH)
