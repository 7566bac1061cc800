"""Options of pretraining without labels, and the description of a pretrained network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfseg.records.optimization import AdamW, WarmupCosine
from selfseg.records.plan import Configuration, Decision
from selfseg.records.serial import Record
from selfseg.records.transfer import StartModel


class MaskedReconstruction(Record):
    """Blocks of a patch are set to 0 and painted again; the error there is what is learned from.

    Attributes:
        block: Voxels of a block along each axis of the patch.
        share: Of the blocks that are masked.
        steps: Length, where no time is given.
        optimizer, schedule: As in training.
        gradient_clip: Largest norm of the gradient.
    """

    block: tuple[int, ...]
    share: float = Field(default=0.6, gt=0.0, lt=1.0)
    steps: int = Field(default=10_000, ge=1)
    optimizer: AdamW = AdamW()
    schedule: WarmupCosine = WarmupCosine()
    gradient_clip: float = 12.0


class Pretrained(Record):
    """pretrained.json beside the weights, written just before them.

    Attributes:
        model: Its name as a start; `fold` is `pretrained`, `digest` that of the weights.
        channels: Of the images.
        configuration: The one whose network it is.
        options, decision: How it was trained, and why so.
        cases, images: Images that it has seen, and the digests of their files.
        steps, seconds, seed: Length and seed.
        error, error_of_zeros: Mean squared error of the masked voxels at the end, and that of
            painting zeros: what was learned is the difference.
    """

    schema_version: Literal[1] = 1
    model: StartModel
    channels: tuple[str, ...]
    configuration: Configuration
    options: MaskedReconstruction
    decision: Decision
    cases: tuple[str, ...]
    images: tuple[str, ...] = ()
    steps: int
    seconds: float
    seed: int
    error: float
    error_of_zeros: float
