"""The shape of a label: components, surface, center line, place, and the same over all cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from selfseg.arrays import bounding_box
from selfseg.fingerprinting.occupancy import mean_pairwise_dice, pack_occupancy
from selfseg.fingerprinting.surfaces import measure_contrast, measure_sphericity
from selfseg.fingerprinting.tubes import coarsen, measure_tubes
from selfseg.records.geometry import Box
from selfseg.records.serial import Shape3, Triple
from selfseg.records.shapes import ShapeFacts, ShapeSummary

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

# Larger labels are coarsened first: these bound the time that a label takes.
MOST_VOXELS_LINE, MOST_VOXELS_SURFACE = 16_000_000, 1_000_000
MOST_INSIDE = 1_000_000
THIN_VOXELS = 3.0


def measure_shape(
    mask: Mask,
    spacing_mm: Triple,
    *,
    image: Floats | None = None,
    body: Box | None = None,
) -> ShapeFacts:
    """Measure one label of one case (definitions: `ShapeFacts`).

    An array with one axis of a single voxel is measured in its plane.

    Args:
        mask: (Z, Y, X), not empty.
        spacing_mm: Voxel size.
        image: (c, Z, Y, X), for the contrast; default: none is measured.
        body: What positions refer to; default: the whole array.
    """
    box = bounding_box(mask)
    flat = [axis for axis in range(3) if mask.shape[axis] == 1]
    axes = [axis for axis in range(3) if axis not in flat or len(flat) != 1]
    spacing = np.array([spacing_mm[axis] for axis in axes])
    inner = mask[box.slices].reshape([box.shape[axis] for axis in axes])
    sizes = _component_sizes(inner)
    low, high = np.percentile(_diameters(sizes * spacing.prod(), len(axes)), [10, 90])
    line, merged = coarsen(inner, spacing, most_voxels=MOST_VOXELS_LINE, most_inside=MOST_INSIDE)
    surface, factors = coarsen(
        inner, spacing, most_voxels=MOST_VOXELS_SURFACE, most_inside=MOST_INSIDE
    )
    thin_mm = THIN_VOXELS * float(spacing.prod() ** (1 / len(axes)))
    return ShapeFacts(
        components=len(sizes),
        largest_share=float(sizes.max() / sizes.sum()),
        diameter_p10_mm=float(low),
        diameter_p90_mm=float(high),
        sphericity=measure_sphericity(surface, tuple(spacing * factors)),
        tubes=measure_tubes(line, spacing * merged, thin_mm=thin_mm),
        position=_position(mask[box.slices], box, body or _whole(mask)),
        contrast=() if image is None else tuple(measure_contrast(mask, c) for c in image),
        coarsening=_on_all_axes(merged, axes),
        occupancy=pack_occupancy(inner, spacing),
    )


def summarize_shape(
    cases: Sequence[ShapeFacts], volumes_ml: Sequence[float], num_cases: int
) -> ShapeSummary | None:
    """Return the shape of a label over the cases that have it; None if none has.

    Args:
        cases: Facts of the cases that have the label.
        volumes_ml: Of the label in these cases.
        num_cases: All cases.
    """
    if not cases:
        return None
    counts = Counter(facts.components for facts in cases)
    several = len(cases) > 1
    positions = np.array([facts.position for facts in cases])
    tubes = [facts.tubes for facts in cases]
    return ShapeSummary(
        share_of_cases=len(cases) / num_cases,
        components_mode=min(counts, key=lambda count: (-counts[count], count)),
        median_largest_share=median(facts.largest_share for facts in cases),
        median_size_spread=median(facts.diameter_p90_mm / facts.diameter_p10_mm for facts in cases),
        median_sphericity=median(facts.sphericity for facts in cases),
        median_r50_mm=median(facts.r50_mm for facts in tubes),
        median_r95_mm=median(facts.r95_mm for facts in tubes),
        median_length_mm=median(facts.length_mm for facts in tubes),
        median_elongation=median(facts.elongation for facts in tubes),
        median_branch_elongation=median(facts.branch_elongation for facts in tubes),
        median_tube_ratio=median(facts.tube_ratio for facts in tubes),
        median_thin_share=median(facts.thin_share for facts in tubes),
        median_contrast=_median_contrasts([facts.contrast for facts in cases]),
        volume_cv=float(np.std(volumes_ml) / np.mean(volumes_ml)) if several else None,
        aligned_dice=mean_pairwise_dice([facts.occupancy for facts in cases]),
        position_spread=float(positions.std(axis=0).max()) if several else None,
    )


def _whole(array: Mask) -> Box:
    """Return the box of a whole (Z, Y, X) array."""
    z, y, x = array.shape
    return Box(lower=(0, 0, 0), upper=(z, y, x))


def _component_sizes(mask: Mask) -> npt.NDArray[np.intp]:
    """Return the number of voxels of each component."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes: npt.NDArray[np.intp] = np.bincount(parts.ravel())[1:]
    return sizes


def _diameters(volumes: Floats, axes: int) -> Floats:
    """Return the diameters of balls (of discs, for two axes) of these volumes (areas)."""
    diameters: Floats = np.cbrt(6 * volumes / np.pi) if axes == 3 else np.sqrt(4 * volumes / np.pi)
    return diameters


def _position(inner: Mask, box: Box, body: Box) -> Triple:
    """Return the center of mass of what is inside a box in units of the body's box."""
    center = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        profile = np.count_nonzero(inner, axis=others)
        middle = box.lower[axis] + float(np.average(np.arange(len(profile)) + 0.5, weights=profile))
        center.append((middle - body.lower[axis]) / body.shape[axis])
    return (center[0], center[1], center[2])


def _on_all_axes(factors: npt.NDArray[np.intp], axes: Sequence[int]) -> Shape3:
    """Return the factors of these axes, and 1 for the others."""
    found = dict(zip(axes, factors.tolist(), strict=True))
    return (found.get(0, 1), found.get(1, 1), found.get(2, 1))


def _median_contrasts(cases: Sequence[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    """Return the median of each channel over the cases where it is known."""
    known = [
        [value for value in channel if value is not None] for channel in zip(*cases, strict=True)
    ]
    return tuple(median(values) if values else None for values in known)
