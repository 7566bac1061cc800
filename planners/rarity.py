"""How many voxels are annotated, and how many each class has."""

from __future__ import annotations

from math import prod

from selfseg.records.fingerprint import Fingerprint


def class_voxels(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the annotated voxels of each class in all cases, background first.

    Labels beyond the crop, where all channels are 0, are counted; background there is not.
    """
    by_case = [[fact.voxels for fact in case.labels] for case in fingerprint.cases]
    labels = [float(sum(counts)) for counts in zip(*by_case, strict=True)]
    return (max(_annotated_voxels(fingerprint) - sum(labels), 0.0), *labels)


def annotated_share(fingerprint: Fingerprint) -> float:
    """Return the annotated voxels of all cases after the crop, as a share of their voxels."""
    voxels = sum(prod(case.shape_after_crop) for case in fingerprint.cases)
    return _annotated_voxels(fingerprint) / voxels


def _annotated_voxels(fingerprint: Fingerprint) -> float:
    return sum(prod(case.shape_after_crop) * case.annotated_share for case in fingerprint.cases)
