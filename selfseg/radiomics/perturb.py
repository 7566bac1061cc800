"""Regions as other readers might have drawn them, and how far features agree on them.

Agreement is the intraclass correlation ICC(2,1) of Shrout & Fleiss (1979): two-way random effects,
absolute agreement of single measurements.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from selfseg.radiomics.region import Floats, Mask, Region


def perturbed_regions(
    region: Region, *, jitters: int, shift_voxels: float, smoothness_voxels: float, seed: int
) -> tuple[Region, ...]:
    """Return a region eroded and dilated by a voxel, and with randomly shifted contours.

    A region that would vanish stays as it is. What lies outside of the image takes nothing away:
    at its edge, and across a picture of one slice, there is no contour that could be moved.

    Args:
        region: As it was drawn.
        jitters: Random contours.
        shift_voxels: Standard deviation of their shift.
        smoothness_voxels: Width of the Gaussian over which it is alike.
        seed: Of the shifts.
    """
    rng = np.random.default_rng(seed)
    eroded = ndimage.binary_erosion(region.mask, border_value=1)
    masks = [eroded, ndimage.binary_dilation(region.mask)]
    masks += [_shifted(region.mask, shift_voxels, smoothness_voxels, rng) for _ in range(jitters)]
    return tuple(replace(region, mask=mask) if mask.any() else region for mask in masks)


def agreement(values: Floats) -> Floats:
    """Return ICC(2,1) of each feature.

    Args:
        values: (regions, readings, features); at least two regions and two readings.

    Returns:
        One number a feature, 1 for features that no reading changes, 0 for those that a reading
        leaves undefined.
    """
    n, k, _ = values.shape
    mean = values.mean(axis=(0, 1))
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    between = k * np.square(rows - mean).sum(axis=0) / (n - 1)
    readings = n * np.square(columns - mean).sum(axis=0) / (k - 1)
    rest = values - rows[:, None] - columns[None] + mean
    error = np.square(rest).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    below = between + (k - 1) * error + k * (readings - error) / n
    found: Floats = np.divide(between - error, below, out=np.ones_like(below), where=below > 0)
    found[~np.isfinite(below)] = 0.0
    return found


def _shifted(mask: Mask, shift: float, smoothness: float, rng: np.random.Generator) -> Mask:
    """Return a mask whose contour is moved in and out by a smooth random field, in voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(mask.shape), smoothness)
    noise *= shift / max(float(noise.std()), 1e-12)
    outside = ndimage.distance_transform_edt(~mask)
    distance = outside - ndimage.distance_transform_edt(mask) + np.where(mask, 0.5, -0.5)
    return np.asarray(distance < noise, np.bool_)
