"""Where a fine stage looks: boxes around what the previous stage found."""

from __future__ import annotations

from pydantic import Field

from selfseg.records.geometry import Box
from selfseg.records.serial import Record


class Crop(Record):
    """A box around each component of what the previous stage found, such as each of two kidneys.

    Attributes:
        labels: Labels of interest; their union has the components. None: all.
        margin_mm: Around a component on all sides.
        smallest_ml: Components of less volume get no box.
    """

    labels: tuple[str, ...] | None = None
    margin_mm: float = Field(default=20.0, ge=0.0)
    smallest_ml: float = Field(default=0.0, ge=0.0)


class CaseCrops(Record):
    """The boxes of a case on its working grid, the largest component first.

    Attributes:
        id: Case id.
        source: Digest of all they were made from.
        boxes: May overlap; empty where nothing was found.
    """

    id: str
    source: str
    boxes: tuple[Box, ...]
