"""Intensity normalization of one channel of one case."""

from __future__ import annotations

from typing import assert_never

import numpy as np
import numpy.typing as npt

from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    Normalization,
    PercentileNormalization,
    ZScore,
)

Floats = npt.NDArray[np.float32]

# Constant images have no spread; this keeps them finite, as in nnU-Net.
SMALLEST_SPREAD = 1e-8


def normalize(channel: Floats, inside: npt.NDArray[np.bool_], options: Normalization) -> Floats:
    """Return the normalized channel as a new array.

    Args:
        channel: One channel, (Z, Y, X).
        inside: Mask of nonzero voxels; used by ZScore with `inside_mask` only, which leaves 0
            outside.
        options: Which normalization, with its numbers.
    """
    match options:
        case CTNormalization():
            clipped = channel.clip(options.lower, options.upper)
            return _standardized(clipped, options.mean, options.std)
        case ZScore(inside_mask=True):
            result = np.zeros_like(channel)
            values = channel[inside]
            if values.size:
                result[inside] = _z_score(values)
            return result
        case ZScore():
            return _z_score(channel)
        case PercentileNormalization():
            percents = (options.lower_percent, options.upper_percent)
            low, high = np.percentile(channel, percents)
            return _z_score(channel.clip(low, high).astype(np.float32, copy=False))
        case MinMax():
            shifted: Floats = channel - channel.min()
            shifted /= np.float32(max(float(shifted.max()), SMALLEST_SPREAD))
            return shifted
        case FixedScale():
            scaled: Floats = channel / np.float32(options.divisor)
            return scaled
        case NoNormalization():
            return channel.copy()
        case _:
            assert_never(options)


def _z_score(values: Floats) -> Floats:
    # Sums of many float32 values lose digits: the statistics are taken in float64.
    mean = float(values.mean(dtype=np.float64))
    return _standardized(values, mean, float(values.std(dtype=np.float64)))


def _standardized(values: Floats, mean: float, std: float) -> Floats:
    result: Floats = values - np.float32(mean)
    result /= np.float32(max(std, SMALLEST_SPREAD))
    return result
