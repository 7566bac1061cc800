"""All that is needed to resume, in one safetensors file: weights, optimizer, position, RNG."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from selfseg.errors import CheckpointError, ModelError, RecordError
from selfseg.networks.layout import CHANNELS_LAST
from selfseg.networks.weights import load_with_metadata, read_metadata, save_weights
from selfseg.records import serial
from selfseg.records.transfer import StartModel
from selfseg.training.job import Course, TrainingJob
from selfseg.training.optimizer import start_momentum_
from selfseg.training.state import TrainState
from selfseg.workspace.network import FoldFolder

INFO = "selfseg"
NETWORK, AVERAGE, OPTIMIZER, RNG = "network/", "average/", "optimizer/", "rng/"
LOSS = "loss/"


class Position(serial.Record):
    """Where a training stands, and what it must agree with to go on.

    `plan_digest` covers the configuration but for what is estimated of it: resuming with other
    options would mix two runs. A measured layout is kept, since it moves the last digits. The
    length may be changed.
    """

    schema_version: Literal[1] = 1
    plan_digest: str
    seed: int
    recipe: Literal["long", "short"]
    steps_per_epoch: int
    epoch: int
    step: int
    elapsed_s: float
    loss_sum: float
    loss_count: int
    total_steps: int | None
    time_s: float | None
    device: str
    precision: str
    layout: Literal["contiguous", "channels_last"]
    scaler_scale: float | None
    start: StartModel | None = None

    @property
    def share(self) -> float:
        """Share of the run's length that is over."""
        if self.time_s is not None:
            return min(self.elapsed_s / self.time_s, 1.0)
        return min(self.step / (self.total_steps or 1), 1.0)

    def layout_on(self, device: torch.device, dims: int) -> torch.memory_format | None:
        """Return the layout for going on with `dims` spatial axes; None on another device."""
        if self.device != device.type:
            return None
        if self.layout == "contiguous":
            return torch.contiguous_format
        return CHANNELS_LAST[dims]


def save_checkpoint(state: TrainState, job: TrainingJob, course: Course) -> None:
    """Write the checkpoint; a kill at any moment leaves the former or the new one."""
    loss_sum, loss_count = state.losses.read()
    planar = state.layout == torch.contiguous_format
    position = Position(
        plan_digest=job.digest,
        seed=job.seed,
        recipe=course.kind,
        steps_per_epoch=course.steps_per_epoch,
        epoch=state.epoch,
        step=state.step,
        elapsed_s=state.elapsed_s,
        loss_sum=loss_sum,
        loss_count=loss_count,
        total_steps=course.total_steps,
        time_s=course.time_s,
        device=state.device.type,
        precision=state.precision,
        layout="contiguous" if planar else "channels_last",
        scaler_scale=state.scaler.get_scale() if state.scaler.is_enabled() else None,
        start=None if job.start is None else job.start.model,
    )
    tensors = {NETWORK + name: value for name, value in state.network.state_dict().items()}
    tensors |= {AVERAGE + name: value for name, value in state.average.items()}
    tensors |= {LOSS + name: value for name, value in state.memory.items()}
    tensors |= optimizer_tensors(state.optimizer)
    tensors[RNG + "cpu"] = torch.get_rng_state()
    if state.device.type == "cuda":
        tensors[RNG + "cuda"] = torch.cuda.get_rng_state(state.device)
    save_weights(tensors, job.output.checkpoint, {INFO: position.model_dump_json()})


def read_position(folder: FoldFolder) -> tuple[Position, dict[str, Tensor]] | None:
    """Return the checkpoint's position and tensors, or None if there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    if not folder.checkpoint.is_file():
        return None
    try:
        tensors, metadata = load_with_metadata(folder.checkpoint)
        position = serial.decode(Position, metadata.get(INFO, ""), source=str(folder.checkpoint))
    except (ModelError, RecordError) as error:
        raise CheckpointError(
            f"{folder.checkpoint}: damaged checkpoint ({error.message})",
            remedy="Train this fold from the start with --restart.",
        ) from error
    return position, tensors


def peek(folder: FoldFolder) -> Position | None:
    """Return the checkpoint's position without its tensors; None if there is none that is whole."""
    try:
        metadata = read_metadata(folder.checkpoint)
        return serial.decode(Position, metadata.get(INFO, ""), source=str(folder.checkpoint))
    except (ModelError, RecordError):
        return None


def restore(state: TrainState, position: Position, tensors: dict[str, Tensor]) -> None:
    """Bring a fresh state to where the checkpoint was written.

    Raises:
        CheckpointError: The tensors do not fit the network.
    """
    try:
        state.network.load_state_dict(_part(tensors, NETWORK))
        for name, value in _part(tensors, AVERAGE).items():
            state.average[name].copy_(value)
        restore_optimizer(state.optimizer, _part(tensors, OPTIMIZER))
        state.memory.update(_part(tensors, LOSS))
        torch.set_rng_state(tensors[RNG + "cpu"])
        if state.device.type == "cuda" and RNG + "cuda" in tensors:
            torch.cuda.set_rng_state(tensors[RNG + "cuda"], state.device)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint does not fit the plan's network ({error})",
            remedy="Train this fold from the start with --restart.",
        ) from error
    if position.scaler_scale is not None:
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": position.scaler_scale})
    state.epoch, state.step = position.epoch, position.step
    state.elapsed_s = position.elapsed_s
    state.losses.set(position.loss_sum, position.loss_count)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `optimizer/INDEX/NAME`; numbers become tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{OPTIMIZER}{index}/{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Bring an optimizer to where its tensors (`INDEX/NAME`) were kept.

    They get the layout of their weights, which a file does not keep: torch's fast kernels want it.
    """
    content = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**content, "state": state})
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight).copy_(value)
    start_momentum_(optimizer)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
