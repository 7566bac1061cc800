"""How many voxels each class has."""

from __future__ import annotations

from math import prod

from selfseg.records.fingerprint import Fingerprint


def class_voxels(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the annotated voxels of each class in all cases, background first."""
    annotated = sum(
        prod(case.shape_after_crop) * case.annotated_share for case in fingerprint.cases
    )
    by_case = [[fact.voxels for fact in case.labels] for case in fingerprint.cases]
    labels = [float(sum(counts)) for counts in zip(*by_case, strict=True)]
    return (annotated - sum(labels), *labels)
