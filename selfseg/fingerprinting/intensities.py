"""Foreground intensities: a small sketch of each case, and the statistics of all cases together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selfseg.records.fingerprint import SKETCH_PERCENTS, IntensityFacts, IntensitySketch

SIGNIFICANT_DIGITS = 7  # float32 has no more
BLOCK = 1 << 20  # values turned to float64 at once
ROUNDING = 1e-9  # of a sum of percentages


def sketch_intensities(values: npt.NDArray[np.floating]) -> IntensitySketch:
    """Return count, mean, standard deviation and quantiles of one case's foreground values."""
    if values.size == 0:
        return IntensitySketch(count=0)
    ordered = np.sort(values)
    mean = ordered.mean(dtype=np.float64)
    parts = np.array_split(ordered, 1 + ordered.size // BLOCK)  # no float64 copy of all
    variance = sum(float(((part - mean) ** 2).sum()) for part in parts) / ordered.size
    return IntensitySketch(
        count=int(ordered.size),
        mean=_rounded(float(mean)),
        std=_rounded(np.sqrt(variance)),
        quantiles=tuple(_rounded(value) for value in _quantiles(ordered)),
    )


def pool_intensities(sketches: Sequence[IntensitySketch]) -> IntensityFacts:
    """Return the statistics of all cases, each weighing the same.

    nnU-Net draws the same number of foreground voxels from each case and pools them; these are
    the values that such a sample tends to. Mean and standard deviation follow from the cases'
    moments, minimum and maximum are exact, percentiles are read off the mean of the cases'
    distribution functions, which the sketches give piecewise linearly.
    """
    used = [sketch for sketch in sketches if sketch.count]
    if not used:
        return IntensityFacts(
            mean=0, median=0, std=1, minimum=0, maximum=0, percentile_00_5=0, percentile_99_5=0
        )
    means = np.array([sketch.mean for sketch in used])
    variances = np.array([sketch.std**2 for sketch in used])
    low, median, high = _mixture_percentiles(used, (0.5, 50.0, 99.5))
    return IntensityFacts(
        mean=_rounded(means.mean()),
        median=_rounded(median),
        std=_rounded(np.sqrt(variances.mean() + means.var())),
        minimum=min(sketch.quantiles[0] for sketch in used),
        maximum=max(sketch.quantiles[-1] for sketch in used),
        percentile_00_5=_rounded(low),
        percentile_99_5=_rounded(high),
    )


def _quantiles(ordered: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the sketch's percentiles of sorted values, linear between neighbors as in NumPy."""
    position = np.array(SKETCH_PERCENTS) / 100 * (ordered.size - 1)
    lower = position.astype(np.int64)
    low = ordered[lower].astype(np.float64)
    high = ordered[np.minimum(lower + 1, ordered.size - 1)].astype(np.float64)
    quantiles: npt.NDArray[np.float64] = low + (high - low) * (position - lower)
    return quantiles


def _mixture_percentiles(
    sketches: Sequence[IntensitySketch], percents: Sequence[float]
) -> tuple[float, ...]:
    """Return percentiles of the equal mixture of the cases, whose quantiles are linear pieces.

    The share of the mixture below a value is linear between neighbors among all cases' quantiles,
    so it is enough to search these.
    """
    quantiles = np.array([sketch.quantiles for sketch in sketches])
    places = np.unique(quantiles)

    def percentile(percent: float) -> float:
        index = bisect_left(
            range(places.size),
            percent - ROUNDING,
            key=lambda i: _percent_below(float(places[i]), quantiles, including=True),
        )
        right = float(places[min(index, places.size - 1)])
        upper = _percent_below(right, quantiles, including=False)
        if index == 0 or upper <= percent:
            return right
        left = float(places[index - 1])
        lower = _percent_below(left, quantiles, including=True)
        return left + (right - left) * (percent - lower) / (upper - lower)

    return tuple(percentile(percent) for percent in percents)


def _percent_below(value: float, quantiles: npt.NDArray[np.float64], *, including: bool) -> float:
    """Return the percentage of the mixture below a value, or at it where many voxels share it."""
    low, high = quantiles[:, :-1], quantiles[:, 1:]
    width = high - low
    passed = value >= low if including else value > low
    share = np.where(
        width > 0, np.clip((value - low) / np.where(width > 0, width, 1), 0, 1), passed
    )
    return float((share @ np.diff(SKETCH_PERCENTS)).mean())


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
