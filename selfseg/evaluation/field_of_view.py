"""Pixels told apart inside a field of view, as scores of retinal vessels are given.

The quantities are those of Staal et al. (2004), doi:10.1109/TMI.2004.825627, and of later work on
their images: only pixels inside the mask of the field of view count. Thresholds are 0.5 and that
of Otsu (1979), doi:10.1109/TSMC.1979.4310076, on the probabilities inside the field of view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfseg.records.metrics import FieldOfViewScores

HALF = 0.5


@dataclass(frozen=True)
class Confusion:
    """Pixels by prediction and reference."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference that was found; None if it is empty."""
        return _share(self.true_positive, self.false_negative)

    @property
    def specificity(self) -> float | None:
        """Share of the background that was left alone; None if there is none."""
        return _share(self.true_negative, self.false_positive)

    @property
    def precision(self) -> float | None:
        """Share of the prediction that is right; None if it is empty."""
        return _share(self.true_positive, self.false_positive)

    @property
    def accuracy(self) -> float | None:
        """Share of all pixels that are right; None if there are none."""
        right = self.true_positive + self.true_negative
        return _share(right, self.false_positive + self.false_negative)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and sensitivity (Dice); None if both masks are empty."""
        return _share(2 * self.true_positive, self.false_positive + self.false_negative)


def confusion(prediction: np.ndarray, reference: np.ndarray) -> Confusion:
    """Count the pixels of two boolean arrays of one shape."""
    both = int(np.count_nonzero(prediction & reference))
    predicted, positive = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    return Confusion(
        true_positive=both,
        false_positive=predicted - both,
        false_negative=positive - both,
        true_negative=prediction.size - predicted - positive + both,
    )


def area_under_curve(values: np.ndarray, reference: np.ndarray) -> float | None:
    """Return the area under the receiver operating characteristic, exactly.

    It is the probability that a pixel of the reference has a higher value than one of the
    background, where equal values count one half: the rank sum of Mann and Whitney (1947).

    Args:
        values: Probabilities, or anything that orders pixels.
        reference: Boolean, of the same shape.

    Returns:
        0 to 1; None if the reference is empty or everything.
    """
    from scipy.stats import rankdata  # slow to load, and seldom needed

    positive = int(np.count_nonzero(reference))
    negative = reference.size - positive
    if not positive or not negative:
        return None
    ranks = rankdata(values.ravel())
    above = ranks[reference.ravel()].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def field_of_view_scores(
    prediction: np.ndarray, reference: np.ndarray, inside: np.ndarray
) -> FieldOfViewScores:
    """Score a prediction inside a field of view.

    Args:
        prediction: Probabilities, or a boolean mask; of a mask neither a curve nor a threshold of
            its own are known.
        reference: Boolean array of the same shape.
        inside: The field of view, boolean, of the same shape.
    """
    if not prediction.shape == reference.shape == inside.shape:
        shapes = ", ".join(str(array.shape) for array in (prediction, reference, inside))
        raise ValueError(f"arrays should have one shape, not {shapes}")
    values, truth = prediction[inside], reference[inside]
    soft = values.dtype != bool and values.size > 0
    values = values.astype(np.float64)  # narrow types have no room for Otsu's bins
    half = confusion(values > HALF, truth)
    if not soft:
        return _scores(half, None, None, None)
    from skimage.filters import threshold_otsu  # slow to load, and seldom needed

    threshold = float(threshold_otsu(values))
    return _scores(
        half, confusion(values > threshold, truth), threshold, area_under_curve(values, truth)
    )


def _scores(
    half: Confusion, otsu: Confusion | None, threshold: float | None, auc: float | None
) -> FieldOfViewScores:
    return FieldOfViewScores(
        auc=auc,
        sensitivity=half.sensitivity,
        specificity=half.specificity,
        accuracy=half.accuracy,
        precision=half.precision,
        f1=half.f1,
        otsu_threshold=threshold,
        otsu_sensitivity=None if otsu is None else otsu.sensitivity,
        otsu_specificity=None if otsu is None else otsu.specificity,
        otsu_accuracy=None if otsu is None else otsu.accuracy,
        otsu_precision=None if otsu is None else otsu.precision,
        otsu_f1=None if otsu is None else otsu.f1,
    )


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None
