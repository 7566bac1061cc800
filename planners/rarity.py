"""How many voxels are annotated, and how many each class has."""

from __future__ import annotations

from math import prod

from selfseg.records.fingerprint import Fingerprint


def class_voxels(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the annotated voxels of each class in all cases, background first."""
    by_case = [[fact.voxels for fact in case.labels] for case in fingerprint.cases]
    labels = [float(sum(counts)) for counts in zip(*by_case, strict=True)]
    return (_annotated_voxels(fingerprint) - sum(labels), *labels)


def annotated_share(fingerprint: Fingerprint) -> float:
    """Return the annotated voxels of all cases, as a share of their voxels."""
    voxels = sum(prod(case.shape_after_crop) for case in fingerprint.cases)
    return _annotated_voxels(fingerprint) / voxels


def _annotated_voxels(fingerprint: Fingerprint) -> float:
    return sum(prod(case.shape_after_crop) * case.annotated_share for case in fingerprint.cases)
