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
BLOCK = 1 << 20  # voxels squared at once: no float64 copy of the whole image


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
            return _standardize_(clipped, options.mean, options.std)
        case ZScore(inside_mask=True):
            result = np.zeros_like(channel)
            values = channel[inside]
            if values.size:
                result[inside] = _z_score_(values)
            return result
        case ZScore():
            return _z_score_(channel.copy())
        case PercentileNormalization():
            percents = (options.lower_percent, options.upper_percent)
            low, high = np.percentile(channel, percents)
            return _z_score_(channel.clip(np.float32(low), np.float32(high)))
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


def _z_score_(values: Floats) -> Floats:
    # Sums of many float32 values lose digits: the statistics are taken in float64.
    mean = float(values.mean(dtype=np.float64))
    values -= np.float32(mean)
    flat = values.ravel()
    squares = sum(
        float(np.square(flat[first : first + BLOCK], dtype=np.float64).sum())
        for first in range(0, flat.size, BLOCK)
    )
    values /= np.float32(max((squares / flat.size) ** 0.5, SMALLEST_SPREAD))
    return values


def _standardize_(values: Floats, mean: float, std: float) -> Floats:
    values -= np.float32(mean)
    values /= np.float32(max(std, SMALLEST_SPREAD))
    return values
