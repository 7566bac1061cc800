"""All features of a region by name: shape, intensities, texture of levels, per channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from selfseg.radiomics.cooccurrence import cooccurrence_features
from selfseg.radiomics.first_order import histogram_features, intensity_features
from selfseg.radiomics.mirp_features import further_features
from selfseg.radiomics.region import (
    Mask,
    Region,
    cut_region,
    discretize,
    grid_of_levels,
    resample_region,
)
from selfseg.radiomics.shape import center_shift_mm, shape_features
from selfseg.records.features import RadiomicsOptions, ZScoreScale
from selfseg.records.serial import Triple


def prepare_region(
    channels: npt.NDArray[np.floating],
    mask: Mask,
    spacing_mm: Triple,
    options: RadiomicsOptions,
) -> Region:
    """Scale the channels of an image, cut a region out and bring it to the grid of the options.

    Where the mask is thinner than the new voxels and would vanish, the grid stays as it is.

    Args:
        channels: Whole image (c, z, y, x): a z-score is taken over all of it.
        mask: (z, y, x), not empty.
        spacing_mm: Voxel size per axis.
        options: One entry of `channels` for each channel.
    """
    scales = [
        _scale(channel) if isinstance(how.scale, ZScoreScale) else (0.0, 1.0)
        for channel, how in zip(channels, options.channels, strict=True)
    ]
    region = cut_region(channels, mask, spacing_mm)
    shifted = [
        (channel - mean) * factor
        for channel, (mean, factor) in zip(region.channels, scales, strict=True)
    ]
    region = replace(region, channels=np.stack(shifted))
    resampled = resample_region(region, options.spacing_mm)
    return resampled if resampled.mask.any() else region


def region_features(region: Region, options: RadiomicsOptions) -> dict[str, float]:
    """Return every feature of a prepared region; all are finite.

    Names begin with their family (`shape_`, `intensity_`, `texture_`, further ones as `runs_`);
    from the second channel on all but those of shape end in `@1`, `@2`, …

    Raises:
        SelfSegError: Further families are wanted, and mirp is not installed.
    """
    found = {f"shape_{name}": value for name, value in shape_features(region).items()}
    for index, (channel, how) in enumerate(zip(region.channels, options.channels, strict=True)):
        end = f"@{index}" if index else ""
        values = channel[region.mask]
        levels = discretize(values, width=how.bin_width)
        grid = grid_of_levels(region, levels)
        texture = cooccurrence_features(grid)
        further = further_features(grid, options.further)
        first = intensity_features(values) | histogram_features(levels)
        first["center_shift_mm"] = center_shift_mm(region, channel)
        found |= {f"intensity_{name}{end}": value for name, value in first.items()}
        found |= {f"texture_{name}{end}": value for name, value in texture.items()}
        found |= {f"{name}{end}": value for name, value in further.items()}
    return found


def _scale(channel: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return what to subtract and to multiply with, so that the deviation becomes 100."""
    deviation = float(np.std(channel, dtype=np.float64))
    factor = ZScoreScale.DEVIATION / deviation if deviation > 0 else 1.0
    return float(np.mean(channel, dtype=np.float64)), factor
