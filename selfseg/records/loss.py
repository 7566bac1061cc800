"""Options of every loss term; a loss is a weighted sum of terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.serial import Record


class DiceTerm(Record):
    """Soft Dice over foreground labels or regions; `batch`: sums run over the batch as well."""

    kind: Literal["dice"] = "dice"
    weight: float = 1.0
    batch: bool = False
    smooth: float = 1e-5


class CrossEntropyTerm(Record):
    """Softmax cross-entropy, mean over voxels; weighted by class where weights are given."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None


class BinaryCrossEntropyTerm(Record):
    """Sigmoid cross-entropy, mean over regions and voxels."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    weight: float = 1.0


LossTerm = Annotated[
    DiceTerm | CrossEntropyTerm | BinaryCrossEntropyTerm, Field(discriminator="kind")
]


class Loss(Record):
    """A weighted sum of terms.

    With deep supervision the output at depth i weighs `deep_supervision_decay ** i`; the coarsest
    gets 0 if there are more than two; the weights are normalized to sum 1.
    """

    kind: Literal["sum"] = "sum"
    terms: tuple[LossTerm, ...]
    deep_supervision_decay: float = 0.5
