"""Terms on center lines: for vessels and other tubes, where a gap costs more than a voxel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.losses.maps import required
from selfseg.losses.view import View
from selfseg.records.loss_terms import ClDiceTerm, SkeletonRecallTerm


class SoftClDice(nn.Module):
    """`1 − 2·T_p·T_s/(T_p + T_s)`, a mean over labels (Shit et al. 2021, soft-clDice).

    T_p = (Σ skel(p)·g + 1)/(Σ skel(p) + 1) and T_s = (Σ skel(g)·p + 1)/(Σ skel(g) + 1), sums over
    space and batch; the skeletons are `soft_skeleton`.
    """

    def __init__(self, options: ClDiceTerm) -> None:
        super().__init__()
        self.iterations, self.labels = options.iterations, options.labels

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        predicted = view.of(self.labels, view.foreground)
        reference = view.of(self.labels, view.reference)
        precision = _share(soft_skeleton(predicted, self.iterations), reference)
        recall = _share(soft_skeleton(reference, self.iterations), predicted)
        return (1 - 2 * precision * recall / (precision + recall)).mean()


class SkeletonRecall(nn.Module):
    """`−mean_l (Σ p·t + s)/(Σ t + s)`, t the widened center line (Kirchhoff et al. 2024).

    Sums run over space and batch. It knows no false positives, so a region term belongs beside it.
    """

    def __init__(self, options: SkeletonRecallTerm) -> None:
        super().__init__()
        self.smooth, self.labels = options.smooth, options.labels

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        tube = view.of(self.labels, required(view.maps.tube))
        axes = (0, *range(2, view.logits.ndim))
        found = (view.of(self.labels, view.foreground) * tube).sum(axes)
        whole = tube.sum(axes)
        return -((found + self.smooth) / (whole + self.smooth)).mean()


def soft_skeleton(masks: Tensor, iterations: int) -> Tensor:
    """Return what openings remove from a soft mask while it is eroded; center lines of tubes.

    Args:
        masks: (b, n, *D) in [0, 1], two or three axes of space.
        iterations: Erosions; the radius in voxels of what is to be thinned.
    """
    return skeleton_and_depth(masks, iterations)[0]


def skeleton_and_depth(masks: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return the soft skeleton, and the sum of a soft mask and all its erosions.

    On a mask of 0 and 1 the latter is the distance to the outside in steps from face to face, at
    most `iterations` + 1.
    """
    skeleton = F.relu(masks - _opened(masks))
    depth = masks
    for _ in range(iterations):
        masks = _eroded(masks)
        depth = depth + masks
        rest = F.relu(masks - _opened(masks))
        skeleton = skeleton + F.relu(rest - skeleton * rest)
    return skeleton, depth


def _share(weights: Tensor, values: Tensor) -> Tensor:
    """Return (Σ w·v + 1)/(Σ w + 1) by label."""
    axes = (0, *range(2, weights.ndim))
    return ((weights * values).sum(axes) + 1) / (weights.sum(axes) + 1)


def _eroded(masks: Tensor) -> Tensor:
    """Return the minimum over face neighbors."""
    pool = F.max_pool2d if masks.ndim == 4 else F.max_pool3d
    axes = masks.ndim - 2
    lowest = masks
    for axis in range(axes):
        size = [1] * axes
        size[axis] = 3
        lowest = torch.minimum(lowest, -pool(-masks, size, 1, [n // 2 for n in size]))
    return lowest


def _opened(masks: Tensor) -> Tensor:
    pool = F.max_pool2d if masks.ndim == 4 else F.max_pool3d
    return pool(_eroded(masks), 3, 1, 1)
