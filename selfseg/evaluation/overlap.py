"""Overlap and volume of two label maps, from one joint count of their voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Voxels of one label: in the prediction, in the reference, in both."""

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


def overlaps(prediction: np.ndarray, reference: np.ndarray, num_labels: int) -> tuple[Overlap, ...]:
    """Count the voxels of the labels 1 to `num_labels` in two maps of label indices."""
    size = num_labels + 1
    joint = prediction.astype(np.int64).ravel() * size + reference.ravel()
    counts = np.bincount(joint, minlength=size * size).reshape(size, size)
    return tuple(
        Overlap(int(counts[i].sum()), int(counts[:, i].sum()), int(counts[i, i]))
        for i in range(1, size)
    )
