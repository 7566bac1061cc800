"""Options of the dense conditional random field, and the grid it is tuned over."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from selfseg.records.serial import Record

CT_THETA_HU = 20.0
CT_GRID_HU = (10.0, 20.0, 40.0)
MR_THETA_SIGMA = 0.5
MR_GRID_SIGMA = (0.25, 0.5, 1.0)


class DenseCrf(Record):
    """Refine probabilities by a fully connected Potts model (Krähenbühl & Koltun, 2011).

    Intensities are those of the channels after the plan's normalization. With the dataset's
    standard deviation s of a CT channel, 20 HU are 20 / s of its units; of a z-scored channel the
    unit is the standard deviation of the case.

    Attributes:
        w_appearance, theta_space_mm, theta_intensity: Weight of the kernel that joins near voxels
            of similar intensity, and its standard deviations in mm and normalized intensity.
        w_smooth, theta_smooth_mm: Weight and standard deviation of the kernel of distance alone.
        iterations: Mean-field updates.
        confidence: Share that is kept of what tells a probability from 1 / number of labels.
    """

    kind: Literal["dense_crf"] = "dense_crf"
    w_appearance: float = Field(default=5.0, ge=0)
    theta_space_mm: PositiveFloat = 10.0
    theta_intensity: PositiveFloat
    w_smooth: float = Field(default=1.0, ge=0)
    theta_smooth_mm: PositiveFloat = 2.0
    iterations: PositiveInt = 5
    confidence: float = Field(default=1.0, gt=0, le=1)


class CrfGrid(Record):
    """Values of each option that tuning combines; `draws` seeded random combinations are tried."""

    kind: Literal["crf_grid"] = "crf_grid"
    w_appearance: tuple[float, ...] = (1.0, 3.0, 5.0, 10.0)
    theta_space_mm: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    theta_intensity: tuple[float, ...]
    w_smooth: tuple[float, ...] = (0.0, 1.0, 3.0)
    theta_smooth_mm: tuple[float, ...] = (1.0, 2.0, 3.0)
    iterations: tuple[int, ...] = (3, 5, 10)
    draws: PositiveInt = 40
    seed: int = 0


def ct_start(std_hu: float) -> DenseCrf:
    """Return the first guess for CT; `std_hu` is that by which the channel was divided."""
    return DenseCrf(theta_intensity=CT_THETA_HU / std_hu)


def mr_start(border_sigma: float) -> DenseCrf:
    """Return the first guess for MR.

    Args:
        border_sigma: Standard deviation of the normalized intensities at the borders of labels.
    """
    return DenseCrf(theta_intensity=MR_THETA_SIGMA * border_sigma)


def ct_grid(std_hu: float) -> CrfGrid:
    """Return the grid for CT; `std_hu` is that by which the channel was divided."""
    return CrfGrid(theta_intensity=tuple(value / std_hu for value in CT_GRID_HU))


def mr_grid(border_sigma: float) -> CrfGrid:
    """Return the grid for MR; `border_sigma` as for `mr_start`."""
    return CrfGrid(theta_intensity=tuple(value * border_sigma for value in MR_GRID_SIGMA))
