"""Steps that clean label maps; each was accepted on out-of-fold cases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.serial import Record


class LargestComponent(Record):
    """Keep the largest connected component of a label or region; None: of all foreground."""

    kind: Literal["largest_component"] = "largest_component"
    name: str | None = None


class MinimumVolume(Record):
    """Remove components of a label or region that are smaller than a volume."""

    kind: Literal["minimum_volume"] = "minimum_volume"
    name: str
    volume_ml: float


class FillHoles(Record):
    """Fill background that a label or region encloses."""

    kind: Literal["fill_holes"] = "fill_holes"
    name: str


Step = Annotated[LargestComponent | MinimumVolume | FillHoles, Field(discriminator="kind")]
