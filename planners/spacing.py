"""Working spacing, axis order and median shape, from the spacings and shapes of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Decision
from selfseg.records.serial import Triple

ANISOTROPY = 3.0  # spacing and shape ratio from which an axis counts as anisotropic
FINE_PERCENTILE = 10  # of the spacings along an anisotropic axis
GUARD_MM = 1e-5


@dataclass(frozen=True)
class Grid:
    """The working grid: axis order, and spacing and median shape in that order."""

    axes: tuple[int, int, int]
    spacing_mm: Triple
    median_shape: Triple


def decide_grid(fingerprint: Fingerprint) -> tuple[Grid, tuple[Decision, ...]]:
    """Take the median spacing, but a finer one along a coarse axis; put the slice axis first.

    Along an axis whose spacing is more than three times, and whose shape less than a third of,
    every other's, the 10th percentile spares the finely sliced cases; it stays coarser than the
    other axes.
    """
    spacings = np.array([case.spacing_mm for case in fingerprint.cases])
    shapes = np.array([case.shape_after_crop for case in fingerprint.cases])
    target, because = target_spacing(spacings, shapes)
    median = np.median(np.maximum(1, np.round(spacings / target * shapes)), axis=0)
    first, axes_because = _slice_axis(target, median)
    axes = (first, *(axis for axis in range(3) if axis != first))
    grid = Grid(
        axes=(axes[0], axes[1], axes[2]),
        spacing_mm=_triple(target[list(axes)]),
        median_shape=_triple(median[list(axes)]),
    )
    decisions = (
        Decision(
            rule="spacing",
            subject="spacing_mm",
            value="×".join(f"{value:.4g}" for value in grid.spacing_mm),
            because=because,
        ),
        Decision(
            rule="axes",
            subject="axes",
            value="".join("ZYX"[axis] for axis in axes),
            because=axes_because,
        ),
    )
    return grid, decisions


def target_spacing(
    spacings: npt.NDArray[np.float64], shapes: npt.NDArray[np.int_]
) -> tuple[npt.NDArray[np.float64], str]:
    """Return the working spacing (canonical axes) and its reason, from (cases, 3) arrays."""
    target = np.median(spacings, axis=0)
    shape = np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest_other = max(target[others])
    if target[worst] <= ANISOTROPY * finest_other or ANISOTROPY * shape[worst] >= min(
        shape[others]
    ):
        return target, f"median spacing of {len(spacings)} cases"
    fine = float(np.percentile(spacings[:, worst], FINE_PERCENTILE))
    if fine < finest_other:
        fine = max(finest_other, fine) + GUARD_MM
    target[worst] = fine
    return target, (
        f"median spacing of {len(spacings)} cases; along {'ZYX'[worst]}, more than {ANISOTROPY:g} "
        f"times coarser and shorter than the others, the {FINE_PERCENTILE}th percentile"
    )


def _slice_axis(
    target: npt.NDArray[np.float64], median: npt.NDArray[np.floating]
) -> tuple[int, str]:
    """Return the axis that comes first, and why: that of single slices, else the coarsest.

    A 2D image has no spacing across it, so its in-plane axes may well be the coarser ones.
    """
    single = int(np.argmin(median))
    if median[single] == 1:
        return single, f"the images are single slices along {'ZYX'[single]}"
    coarsest = int(np.argmax(target))
    return coarsest, f"the coarsest axis ({'ZYX'[coarsest]}, {target[coarsest]:.4g} mm) comes first"


def _triple(values: npt.NDArray[np.floating]) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))
