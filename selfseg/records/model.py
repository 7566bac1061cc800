"""What training leaves behind: progress lines and the description of a trained fold."""

from __future__ import annotations

from typing import Literal

from selfseg.records.names import ConfigurationName
from selfseg.records.serial import Record
from selfseg.records.transfer import StartModel

Engine = Literal["torch", "openvino"]  # what computes the networks in prediction


class EpochRecord(Record):
    """One line of history.jsonl."""

    epoch: int
    step: int
    learning_rate: float
    loss: float
    validation_loss: float | None = None
    dice: tuple[float | None, ...] = ()
    seconds: float
    wait_share: float


class TrainedFold(Record):
    """fold.json beside weights.safetensors: which plan, data and length made these weights.

    `data_digest` covers the files of the training cases, `previous_digest` the weights of a
    cascade's previous stage. `mirror_axes` are the axes that training
    mirrored; prediction averages over no others. `start` is the model that its weights came from;
    None: they were drawn at random.
    """

    schema_version: Literal[1] = 1
    configuration: ConfigurationName
    fold: str
    plan_digest: str
    dataset: str
    seed: int
    epochs: int
    steps: int
    seconds: float
    peak_gib: float | None = None
    precision: str
    mirror_axes: tuple[int, ...]
    data_digest: str = ""
    previous_digest: str = ""
    train_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    start: StartModel | None = None
