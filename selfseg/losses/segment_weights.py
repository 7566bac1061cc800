"""The segment-level loss of Yan et al. 2018: cross-entropy, weighed by the likeness of pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfseg.losses.maps import required
from selfseg.losses.pieces import sums_by_piece
from selfseg.losses.view import View
from selfseg.records.loss_terms import SegmentWeightsTerm
from selfseg.skeletons import thin

FOUND_SHARE = 0.8  # of a center line, below which a piece counts as missed


class SegmentWeights(nn.Module):
    """`mean u·W·(−log p_y)` over annotated voxels; W without gradient, u by class.

    W = 2 − similarity (`piece_weights`): 1 where a piece has its thickness, 2 where it is missed
    and on stray voxels. With several labels a voxel has the largest W of all.
    """

    def __init__(self, options: SegmentWeightsTerm) -> None:
        super().__init__()
        self.options = options

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss."""
        options, labels = self.options, self.options.labels
        with torch.no_grad():
            segments = view.of(labels, required(view.maps.segments)).long()
            reference = view.of(labels, view.reference) > 0
            found = view.of(labels, view.foreground) >= 0.5
            line = skeletons(found) if view.step % options.every == 0 else found & (segments < 0)
            weights = piece_weights(segments, reference, found, line, view.known)
            if options.largest is not None:
                weights = weights.clamp(1, options.largest)
            near, tube = segments != 0, reference
            if not view.targets.regions:
                weights, near = weights.amax(1, keepdim=True), near.any(1, keepdim=True)
                tube = (view.reference > 0).any(1, keepdim=True)
            far_weight, near_weight, tube_weight = options.class_weights
            weights = weights * torch.where(near, near_weight, far_weight).where(~tube, tube_weight)
        surprise = view.of(labels, view.surprise) if view.targets.regions else view.surprise
        return view.mean(surprise * weights)


def skeletons(masks: Tensor) -> Tensor:
    """Return the center lines of boolean masks (b, n, *D), made on the CPU."""
    lines = torch.empty(masks.shape, dtype=torch.bool)
    for place, mask in zip(lines.flatten(0, 1), masks.cpu().flatten(0, 1), strict=True):
        place.copy_(torch.from_numpy(thin(mask.numpy())))
    return lines.to(masks.device)


def piece_weights(
    segments: Tensor, reference: Tensor, found: Tensor, line: Tensor, known: Tensor | None
) -> Tensor:
    """Return W = 2 − similarity of every voxel (b, n, *D).

    For piece s, its thickness T = area/length, the predicted T^ = area/length of the predicted
    center line inside its range, 0 if that has at most 0.8 of the true length: the similarity is
    1 − |T^ − T|/T in the range, 0 on predicted voxels outside all ranges and the reference, else 1.

    Args:
        segments: Numbers of pieces, negative on their center lines.
        reference: True mask, boolean.
        found: Predicted mask, boolean.
        line: Its center line, boolean.
        known: Which voxels are annotated (b, 1, *D); None where all are.
    """
    ids = segments.abs()
    masks = (reference, segments < 0, found, line)
    flat = ids.flatten(2)
    area, length, found_area, found_length = sums_by_piece(
        flat, *(mask.flatten(2).float() for mask in masks)
    )
    counts = (area > 0) & (length > 0)
    thickness = torch.where(counts, area / length, 1)
    is_found = found_length > FOUND_SHARE * length
    found_thickness = torch.where(is_found, found_area / found_length.clamp_min(1), 0)
    likeness = torch.where(counts, 1 - (found_thickness - thickness).abs() / thickness, 1)
    table = torch.cat((torch.ones_like(likeness[..., :1]), likeness), dim=2)
    similarity = table.gather(2, flat).view(ids.shape)
    stray = found & (ids == 0) & ~reference
    if known is not None:
        stray = stray & known
    return 2 - similarity.masked_fill(stray, 0)
