"""A term on the surface of the reference."""

from __future__ import annotations

from torch import Tensor, nn

from selfseg.losses.view import View


class Boundary(nn.Module):
    """`mean(φ·p)`, φ the signed distance to the true surface, p the probability.

    φ is in voxels of the finest axis, negative inside, so that it does not depend on the unit
    (Kervadec et al. 2019).
    """

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        if view.maps.distance is None:
            raise ValueError("the loss needs a map that the batch does not have")
        return view.mean(view.foreground * view.maps.distance)
