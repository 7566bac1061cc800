"""A term on the surface of the reference."""

from __future__ import annotations

from torch import Tensor, nn

from selfseg.losses.maps import finite_distance
from selfseg.losses.view import View
from selfseg.records.loss_terms import BoundaryTerm


class Boundary(nn.Module):
    """`mean(φ·p)`, φ the signed distance to the true surface, p the probability.

    φ is in voxels of the finest axis, negative inside, so that it does not depend on the unit
    (Kervadec et al. 2019). Where the reference has no surface it is 0: nothing is known there.
    """

    def __init__(self, options: BoundaryTerm) -> None:
        super().__init__()
        self.labels = options.labels

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        return view.mean(view.of(self.labels, view.foreground * finite_distance(view.maps)))
