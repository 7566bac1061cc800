"""Overlap and volume in two label maps, from one joint count of their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Voxels of one label or region: in the prediction, in the reference, in both."""

    predicted: int
    reference: int
    both: int

    @property
    def dice(self) -> float | None:
        """Dice coefficient; None if both are empty."""
        total = self.predicted + self.reference
        return 2 * self.both / total if total else None

    @property
    def iou(self) -> float | None:
        """Intersection over union; None if both are empty."""
        union = self.predicted + self.reference - self.both
        return self.both / union if union else None

    def volume_difference_ml(self, voxel_mm3: float) -> float:
        """Return the predicted volume minus the reference's, in ml."""
        return (self.predicted - self.reference) * voxel_mm3 / 1000


def overlaps(
    prediction: np.ndarray, reference: np.ndarray, members: Sequence[Sequence[int]]
) -> tuple[Overlap, ...]:
    """Count voxels in two maps of label indices: of labels, or of groups of labels.

    Args:
        prediction: Label indices, of any shape.
        reference: Of the same shape.
        members: Labels of each group; groups may share labels.
    """
    size = 1 + max(int(prediction.max(initial=0)), int(reference.max(initial=0)))
    size = max(size, 1 + max((index for group in members for index in group), default=0))
    joint = prediction.astype(np.int64).ravel() * size + reference.ravel()
    counts = np.bincount(joint, minlength=size * size).reshape(size, size)
    return tuple(
        Overlap(
            int(counts[list(group)].sum()),
            int(counts[:, list(group)].sum()),
            int(counts[np.ix_(group, group)].sum()),
        )
        for group in members
    )
