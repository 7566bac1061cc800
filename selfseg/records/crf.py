"""Options of the dense conditional random field, and the grid it is tuned over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from selfseg.records.serial import Record

Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
Sizes = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
Counts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


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
    """Values of each option that tuning combines; `draws` seeded random combinations are tried.

    Attributes:
        w_appearance, theta_space_mm, theta_intensity, w_smooth, theta_smooth_mm, iterations: Values
            of the options of `DenseCrf`.
        draws, seed: How many combinations are tried, and which.
        first_cases, more_cases, kept_share: The first round tries all of them on so many cases,
            each further one that share of the best on so many times as many.
        tolerance_mm: Of the surface Dice that is half of the score.
        most_voxels: Of a case in tuning; larger ones are thinned out along their finest axes.
    """

    kind: Literal["crf_grid"] = "crf_grid"
    w_appearance: Weights = (1.0, 3.0, 5.0, 10.0)
    theta_space_mm: Sizes = (5.0, 10.0, 20.0, 40.0)
    theta_intensity: Sizes
    w_smooth: Weights = (0.0, 1.0, 3.0)
    theta_smooth_mm: Sizes = (1.0, 2.0, 3.0)
    iterations: Counts = (3, 5, 10)
    draws: PositiveInt = 40
    seed: int = 0
    first_cases: PositiveInt = 3
    more_cases: int = Field(default=3, ge=2)
    kept_share: float = Field(default=0.25, gt=0, lt=1)
    tolerance_mm: float = Field(default=2.0, ge=0)
    most_voxels: PositiveInt = 200_000
