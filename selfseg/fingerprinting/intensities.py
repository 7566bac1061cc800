"""Foreground intensities: a small sketch of each case, and the statistics of all cases together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selfseg.records.fingerprint import SKETCH_PERCENTS, IntensityFacts, IntensitySketch

SIGNIFICANT_DIGITS = 7  # float32 has no more
MIXTURE_POINTS = 20_000  # resolution of the pooled distribution function


def sketch_intensities(values: npt.NDArray[np.floating]) -> IntensitySketch:
    """Return count, mean, standard deviation and quantiles of one case's foreground values."""
    if values.size == 0:
        return IntensitySketch(count=0)
    exact = values.astype(np.float64)
    quantiles = np.percentile(exact, SKETCH_PERCENTS)
    return IntensitySketch(
        count=int(values.size),
        mean=_rounded(exact.mean()),
        std=_rounded(exact.std()),
        quantiles=tuple(_rounded(value) for value in quantiles),
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


def _mixture_percentiles(
    sketches: Sequence[IntensitySketch], percents: Sequence[float]
) -> tuple[float, ...]:
    """Return percentiles of the equal mixture: draw the same quantile grid from every case."""
    grid = np.arange(MIXTURE_POINTS // len(sketches) + 500) + 0.5
    grid *= 100.0 / grid.size
    pooled = np.concatenate(
        [np.interp(grid, SKETCH_PERCENTS, sketch.quantiles) for sketch in sketches]
    )
    return tuple(float(value) for value in np.percentile(pooled, percents))


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
