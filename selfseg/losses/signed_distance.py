"""A term on signed distances that a head of its own predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfseg.losses.maps import required
from selfseg.losses.view import View
from selfseg.records.loss_terms import SignedDistanceTerm

SMOOTH = 1e-5


class SignedDistance(nn.Module):
    """`mean|ŝ − s| − (I + e)/(I + Σŝ² + Σs² + e) + c·mean (sigmoid(−k·ŝ) − p)²`, I = Σ ŝ·s.

    s is the distance to the surface over the largest one, −1 to 0 inside and 0 to 1 outside (of
    the patch); 1 where the reference lacks the label, −1 where it has no other. ŝ is predicted, p
    the probability (Xue et al. 2020; the last part is ours). What is not annotated and what lies
    outside the image is left out. The lowest value is −1/3. Only training has a head for ŝ: where
    no gradient is asked for, it may be missing, and the loss is 0.
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
        distance = view.of(labels, required(view.maps.distance))
        known = ~distance.isnan() if view.known is None else ~distance.isnan() & view.known
        true, counted = relative_distance(distance, known), found * known
        axes = (0, *range(2, found.ndim))
        both, squares = (counted * true).sum(axes), (counted**2 + true**2).sum(axes)
        product = (both + SMOOTH) / (both + squares + SMOOTH)
        inside = torch.sigmoid(-self.options.steepness * found)
        apart = _mean((inside - view.of(labels, view.foreground)) ** 2, known)
        return (
            _mean((found - true).abs(), known) - product.mean() + self.options.consistency * apart
        )


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).sum() / known.sum().clamp_min(1)


def relative_distance(distance: Tensor, known: Tensor) -> Tensor:
    """Return signed distances (b, n, *D) over the largest inside and outside; 0 where unknown.

    Args:
        distance: Of the patch; infinite distances become 1 and −1.
        known: Which count, bool of that shape.
    """
    finite = torch.where(known & distance.isfinite(), distance, 0)
    space = tuple(range(2, distance.ndim))
    inside, outside = (-finite).clamp_min(0), finite.clamp_min(0)
    deepest, farthest = (part.amax(space, keepdim=True) for part in (inside, outside))
    relative = outside / farthest.clamp_min(SMOOTH) - inside / deepest.clamp_min(SMOOTH)
    return torch.where(known & distance.isinf(), distance.sign(), relative)
