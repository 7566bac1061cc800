"""Models of the shape of a compact label: how to make them, and what was made in a fold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfseg.records.serial import Record


class ShapeOptions(Record):
    """How shape models are made, and for which labels even where no loss needs them.

    Attributes:
        labels: Labels or regions whose predictions get a quality score; those of loss terms join.
        grid: Voxels an axis of the box that every shape is brought to.
        box_margin: Around the label's own box, as a share of it.
        linear_cases: Up to so many training cases the model is linear (closed form), beyond it is
            an autoencoder.
        linear_copies: Slightly deformed copies of every shape that the linear model is made from.
        variance: Share of the variance that its components keep.
        iterations, batch, learning_rate: Training of the autoencoder.
        time_share: Most of a timed training that may go into shape models.
        held_out_share: Of the training cases, not shown to the autoencoder but used to judge it.
        least_dice: A model that renders shapes it was not made from worse than this is refused.
        low_percentile: A quality score below this percentile of those shapes' is called low.
    """

    labels: tuple[str, ...] = ()
    grid: int = Field(default=32, ge=16, multiple_of=16)
    box_margin: float = Field(default=0.15, ge=0.0, le=1.0)
    linear_cases: int = Field(default=10, ge=0)
    linear_copies: int = Field(default=10, ge=0)
    variance: float = Field(default=0.95, gt=0.0, le=1.0)
    iterations: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    time_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    held_out_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    least_dice: float = Field(default=0.95, ge=0.0, le=1.0)
    low_percentile: float = Field(default=5.0, ge=0.0, le=100.0)


class ShapeModelRecord(Record):
    """What became of the shape model of one label.

    Attributes:
        name: Label or region.
        kind: How it was made.
        code: Numbers that describe a shape.
        cases: Training cases whose label could be used.
        iterations: Of the autoencoder, as far as time allowed; 0 for a linear model.
        held_out: Dice between a shape and its rendering, for shapes that the model judged there
            was not made from.
        dice: Mean of them; 0 without any.
        low: Quality scores below are low.
        accepted: Whether it is used.
        because: Why.
    """

    name: str
    kind: Literal["linear", "autoencoder"]
    code: int
    cases: tuple[str, ...]
    iterations: int = 0
    held_out: tuple[float, ...]
    dice: float
    low: float
    accepted: bool
    because: str


class ShapeModels(Record):
    """shapes.json of a fold, beside shapes.safetensors: one entry a label.

    Attributes:
        source: Digest of all that the models were made from.
        grid, box_margin: See `ShapeOptions`.
        axes: Order in which the axes of an image (canonical orientation) were taken.
        models: Accepted or not.
        seconds: That it took.
    """

    schema_version: Literal[1] = 1
    source: str
    grid: int
    box_margin: float
    axes: tuple[int, int, int]
    models: tuple[ShapeModelRecord, ...]
    seconds: float


class LabelQuality(Record):
    """How plausible the shape of a predicted label is.

    Attributes:
        name: Label or region.
        score: Dice between its mask and the shape model's rendering of it; 0 where it is missing.
        low: Scores below are low: references score so seldom.
    """

    name: str
    score: float
    low: float

    @property
    def is_low(self) -> bool:
        """Tell whether somebody should look at the case."""
        return self.score < self.low


class CaseQuality(Record):
    """Quality scores of a predicted case, by label that has a shape model."""

    case: str
    labels: tuple[LabelQuality, ...]


class PredictionQuality(Record):
    """quality.json in a folder of predictions."""

    schema_version: Literal[1] = 1
    cases: tuple[CaseQuality, ...]
