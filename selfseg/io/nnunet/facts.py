"""What a checkpoint of nnU-Net says besides its weights; written by the process that reads it."""

from __future__ import annotations

from selfseg.records.serial import Record

TENSORS, FACTS = "tensors.safetensors", "facts.json"  # what is written for a checkpoint
EXIT_REFUSED = 3


class CheckpointFacts(Record):
    """Facts of one checkpoint.

    Attributes:
        trainer: Name of the class that trained it.
        configuration: Name of the configuration.
        fold: `all` or a number.
        epochs: Epochs that were trained.
        mirror_axes: Spatial axes that prediction may mirror.
    """

    trainer: str
    configuration: str
    fold: str
    epochs: int
    mirror_axes: tuple[int, ...]
