"""Statistics of the intensities in a region, without their places (IBSI, 3.3 and 3.4)."""

from __future__ import annotations

import numpy as np

from selfseg.radiomics.region import Floats, Levels


def intensity_features(values: Floats) -> dict[str, float]:
    """Return the statistics of intensities (n,), at least one; those of a constant are 0.

    Variance is that of a population, kurtosis is in excess of the normal distribution's, the
    robust mean absolute deviation is that of values from the 10th to the 90th percentile.
    """
    mean, variance = float(values.mean()), float(values.var())
    p10, p25, median, p75, p90 = (float(p) for p in np.percentile(values, (10, 25, 50, 75, 90)))
    inner = values[(values >= p10) & (values <= p90)]
    inner = inner if len(inner) else values  # of two voxels none lies between
    energy = float(np.square(values).sum())
    return {
        "mean": mean,
        "variance": variance,
        "skewness": _moment(values, 3),
        "kurtosis": _moment(values, 4) - 3 if variance > 0 else 0.0,
        "median": median,
        "minimum": float(values.min()),
        "p10": p10,
        "p90": p90,
        "maximum": float(values.max()),
        "interquartile_range": p75 - p25,
        "range": float(np.ptp(values)),
        "mean_absolute_deviation": float(np.abs(values - mean).mean()),
        "robust_mean_absolute_deviation": float(np.abs(inner - inner.mean()).mean()),
        "median_absolute_deviation": float(np.abs(values - median).mean()),
        "energy": energy,
        "root_mean_square": float(np.sqrt(energy / len(values))),
    }


def histogram_features(levels: Levels) -> dict[str, float]:
    """Return entropy in bits and uniformity of the levels (n,) of a region."""
    shares = np.bincount(levels) / len(levels)
    shares = shares[shares > 0]
    return {
        "entropy": float(-(shares * np.log2(shares)).sum()) + 0.0,
        "uniformity": float(np.square(shares).sum()),
    }


def _moment(values: Floats, order: int) -> float:
    """Return the standardized central moment; 0 for a constant."""
    deviation = float(values.std())
    if deviation == 0:
        return 0.0
    return float((((values - values.mean()) / deviation) ** order).mean())
