"""How features of a region are computed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from selfseg.records.serial import Record

FurtherFamily = Literal["runs", "zones", "distance_zones", "tones", "dependence"]


class OwnScale(Record):
    """Intensities as they are: Hounsfield units, standardized uptake."""

    kind: Literal["own"] = "own"


class ZScoreScale(Record):
    """Intensities less the mean of their image, with a standard deviation of 100."""

    DEVIATION: ClassVar[float] = 100.0
    kind: Literal["zscore"] = "zscore"


class ChannelFeatures(Record):
    """How one channel is read; `bin_width` is that of a level of the texture."""

    scale: OwnScale | ZScoreScale = Field(discriminator="kind")
    bin_width: float = Field(gt=0)


class RadiomicsOptions(Record):
    """Features of a region.

    Attributes:
        spacing_mm: Edge of the isotropic voxels that they are computed on.
        channels: One entry for each channel of the image.
        further: Families of texture that are computed with mirp, beside our own.
    """

    spacing_mm: float = Field(gt=0)
    channels: tuple[ChannelFeatures, ...] = Field(min_length=1)
    further: tuple[FurtherFamily, ...] = ()
