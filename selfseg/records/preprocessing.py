"""Options of preprocessing: spacing, normalization of each channel, resampling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from selfseg.records.serial import GrownRecord, Record, Triple


class CTNormalization(Record):
    """Clip to [lower, upper], subtract the dataset's mean, divide by its standard deviation."""

    kind: Literal["ct"] = "ct"
    lower: float
    upper: float
    mean: float
    std: float


class ZScore(Record):
    """Zero mean, unit standard deviation per case; `inside_mask`: of the nonzero mask only."""

    kind: Literal["zscore"] = "zscore"
    inside_mask: bool = False


class PercentileNormalization(Record):
    """Clip to two percentiles of the case, then z-score."""

    kind: Literal["percentile"] = "percentile"
    lower_percent: float = 0.5
    upper_percent: float = 99.5


class MinMax(Record):
    """Scale the range of the case to [0, 1]."""

    kind: Literal["min_max"] = "min_max"


class FixedScale(Record):
    """Divide by a fixed number (255 for 8-bit color)."""

    kind: Literal["fixed_scale"] = "fixed_scale"
    divisor: float = 255.0


class NoNormalization(Record):
    """Leave values as they are."""

    kind: Literal["none"] = "none"


Normalization = Annotated[
    CTNormalization | ZScore | PercentileNormalization | MinMax | FixedScale | NoNormalization,
    Field(discriminator="kind"),
]


class Resampling(Record):
    """Spline orders of resampling: 0 nearest, 1 linear, 3 cubic (images only).

    If the larger of the spacing's ratios exceeds `separate_axis_ratio` (current spacing first,
    then the new one) the coarse axis is resampled on its own with `order_separate`.
    """

    order_image: Literal[0, 1, 2, 3, 4, 5] = 3
    order_label: Literal[0, 1] = 1
    order_probabilities: Literal[0, 1] = 1
    order_separate: Literal[0, 1] = 0
    separate_axis_ratio: float = 3.0


class Preprocessing(GrownRecord):
    """From a canonical image to a training array.

    Attributes:
        axes: Canonical → working axis order; the coarsest axis comes first.
        orientation: What `axes` refers to: the canonical axes; the axes as `stored` in the file,
            whichever way they run; or `ras`, canonical but with Y to anterior and X to the right.
        spacing_mm: Working spacing in working order; None keeps the case's own (2D slices).
        normalization: One for each channel.
        resampling: Spline orders.
    """

    axes: tuple[int, int, int]
    spacing_mm: tuple[float | None, float, float]
    normalization: tuple[Normalization, ...]
    resampling: Resampling = Resampling()
    orientation: Literal["canonical", "stored", "ras"] = "canonical"

    later: ClassVar[frozenset[str]] = frozenset({"orientation"})


def spell_out_spacing(options: Preprocessing, spacings_mm: Iterable[Triple]) -> Preprocessing:
    """Return options that do the same to some cases, their own spacing as a number if all share it.

    So options that come to the same for a data set are equal.

    Args:
        options: As planned.
        spacings_mm: Of the cases, in canonical order.
    """
    own, height, width = options.spacing_mm
    # Which axis of a file comes first is not known from canonical spacings.
    if own is not None or options.orientation == "stored":
        return options
    found = {spacing[options.axes[0]] for spacing in spacings_mm}
    if len(found) != 1:
        return options
    return options.model_copy(update={"spacing_mm": (found.pop(), height, width)})
