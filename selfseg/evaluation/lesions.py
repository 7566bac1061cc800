"""Lesions found, missed and invented: components of two masks, matched one to one.

A pair can match if it overlaps enough; of all matchings the one with the largest sum of overlaps
counts (Kuhn, 1955), so neither order nor size of lesions decides. Two lesions that were predicted
as one are one found and one missed; one that was predicted in two parts is found once, and the
other part is invented.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from selfseg.records.metrics import LesionScores

# Least intersection over union of a match. Lesions are small, so their overlap is low even where
# the prediction points at the right place: more than a touch is asked for, but no good outline.
LEAST_IOU = 0.1


def lesion_scores(
    a: np.ndarray, b: np.ndarray, known: np.ndarray | None = None, *, least_iou: float = LEAST_IOU
) -> LesionScores:
    """Count the lesions of a prediction that match one of a reference.

    Args:
        a: Prediction, boolean (z, y, x). Voxels that touch by a corner are of one lesion.
        b: Reference of the same shape.
        known: Where the reference is known; default: everywhere. Nothing else counts.
        least_iou: Least intersection over union of a match, above 0.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks should have one shape, not {a.shape} and {b.shape}")
    if not 0 < least_iou <= 1:
        raise ValueError(f"least_iou should be above 0 and at most 1, not {least_iou}")
    if known is not None:
        a, b = a & known, b & known
    structure = np.ones((3,) * a.ndim, dtype=bool)
    (lesions_a, predicted), (lesions_b, reference) = (ndimage.label(m, structure) for m in (a, b))
    matched = _matched(lesions_a, lesions_b, least_iou)
    return LesionScores(
        reference_count=reference,
        predicted_count=predicted,
        matched_count=matched,
        sensitivity=matched / reference if reference else None,
        precision=matched / predicted if predicted else None,
        f1=2 * matched / (predicted + reference) if predicted + reference else None,
    )


def _matched(lesions_a: np.ndarray, lesions_b: np.ndarray, least_iou: float) -> int:
    """Return how many lesions, numbered from 1 in each map, match."""
    sizes_a, sizes_b = (np.bincount(lesions.ravel()) for lesions in (lesions_a, lesions_b))
    both = (lesions_a > 0) & (lesions_b > 0)
    joint = lesions_a[both].astype(np.int64) * len(sizes_b) + lesions_b[both]
    found, common = np.unique(joint, return_counts=True)
    pairs = np.stack(np.divmod(found, len(sizes_b)))
    iou = common / (sizes_a[pairs[0]] + sizes_b[pairs[1]] - common)
    enough = iou >= least_iou
    rows, columns = (np.unique(numbers, return_inverse=True)[1] for numbers in pairs[:, enough])
    if not len(rows):
        return 0
    overlap = np.zeros((rows.max() + 1, columns.max() + 1))
    overlap[rows, columns] = iou[enough]
    chosen = linear_sum_assignment(overlap, maximize=True)
    return int(np.count_nonzero(overlap[chosen]))
