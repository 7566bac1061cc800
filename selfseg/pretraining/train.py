"""Train a network to paint masked blocks (He et al. 2022, for convolutions after Tian et al. 2023).

Masked voxels are 0 in what the network sees. Its heads are left behind: they give intensities.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfseg.errors import CheckpointError, DivergenceError, ModelError, RecordError
from selfseg.execution.locks import held
from selfseg.files import file_digest
from selfseg.networks.build import build_network
from selfseg.networks.counterparts import is_head
from selfseg.networks.layout import set_layout
from selfseg.networks.precision import autocast_dtype
from selfseg.networks.weights import load_with_metadata, save_weights
from selfseg.pretraining.job import PretrainingJob, check_finished
from selfseg.pretraining.masks import MaskedBatch, draw_batch, flat_error
from selfseg.progress import ProgressBar
from selfseg.records import serial
from selfseg.records.pretraining import Pretrained
from selfseg.records.transfer import PRETRAINED, StartModel
from selfseg.training.checkpoints import optimizer_tensors, restore_optimizer
from selfseg.training.memory_use import MemoryUse
from selfseg.training.schedule import learning_rate_factor
from selfseg.training.trials import choose_layout, mixed_precision

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 60.0
SMOOTH = 0.95  # of the error that is shown and kept
NETWORK, OPTIMIZER, POSITION = "network/", "optimizer/", "selfseg"


class Position(serial.Record):
    """Where a pretraining stands."""

    basis: str
    step: int = 0
    elapsed_s: float = 0.0
    error: float = 0.0
    zeros: float = 0.0


@dataclass
class _State:
    network: nn.Module
    optimizer: torch.optim.AdamW
    position: Position
    layout: torch.memory_format


def pretrain(job: PretrainingJob) -> Pretrained:
    """Pretrain to the end, from the checkpoint if there is one; a finished one is left alone.

    On a CPU a resumed run of a number of steps gives exactly the weights of an uninterrupted one.

    Raises:
        CheckpointError: The checkpoint or the finished network belongs to other options.
        DivergenceError: The error is no longer a number.
        DeviceError: Another process pretrains this.
    """
    with held(job.output.lock, f"{job.configuration.name} is being pretrained"):
        if job.restart:
            shutil.rmtree(job.output.path, ignore_errors=True)
        if job.output.weights.is_file():
            made = serial.load(Pretrained, job.output.description)
            check_finished(made, job)
            return made
        began_s = time.perf_counter()
        state = _begin(job)
        _train(state, job, began_s=began_s)
        return _finish(state, job)


def _begin(job: PretrainingJob) -> _State:
    torch.manual_seed(job.seed)
    channels = len(job.channels)
    network = build_network(job.configuration.network, channels=channels, outputs=channels)
    network.to(job.device).train()
    shape = (job.configuration.batch, channels, *job.configuration.patch)
    layout = choose_layout(network, shape, job.device)
    set_layout(network, layout)
    chosen = job.options.optimizer
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay
    )
    state = _State(network, optimizer, Position(basis=job.basis), layout)
    if job.output.checkpoint.is_file():
        _resume(state, job)
    return state


def _train(state: _State, job: PretrainingJob, *, began_s: float) -> None:
    """Make steps until the length is reached; keep a checkpoint now and then."""
    saved_s, zero_s = began_s, began_s - state.position.elapsed_s
    memory = MemoryUse(job.device)
    memory.steps_follow()
    with ProgressBar(f"Pretraining {job.configuration.name}", 1000, as_share=True) as bar:
        while (progress := _progress(state.position, job)) < 1.0 or state.position.step == 0:
            batch = _draw(job, state.position.step)
            error = _step(state, batch, job, progress)
            memory.step_made()
            now_s = time.perf_counter()
            state.position = _moved(state.position, error, flat_error(batch), now_s - zero_s)
            shown = f"error {state.position.error:.3f} (zeros: {state.position.zeros:.3f})"
            done = min(_progress(state.position, job), 1.0)
            bar.move_to(int(1000 * done), note=f"step {state.position.step}, {shown}")
            if now_s - saved_s > CHECKPOINT_EVERY_S:
                _save(state, job)
                saved_s = now_s


def _step(state: _State, batch: MaskedBatch, job: PretrainingJob, progress: float) -> float:
    """Update the weights once; return the error."""
    options = job.options
    rate = options.optimizer.learning_rate * learning_rate_factor(options.schedule, progress)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    dtype, _ = autocast_dtype(job.device)
    bfloat16 = dtype if dtype == torch.bfloat16 else None  # float16 would need a scaled loss
    placed = MaskedBatch(*(part.to(job.device) for part in (batch.seen, batch.image, batch.mask)))
    with mixed_precision(job.device, bfloat16):
        painted = state.network(placed.seen.contiguous(memory_format=state.layout))[0]
    error = placed.error(painted)
    error.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), options.gradient_clip)
    state.optimizer.step()
    value = float(error.detach())
    if not math.isfinite(value):
        raise DivergenceError(
            f"{job.output.path}: the error is not a number after step {state.position.step}",
            step=state.position.step,
            remedy="Look at the images for extreme values; pretrain again with --restart.",
        )
    return value


def _draw(job: PretrainingJob, step: int) -> MaskedBatch:
    return draw_batch(
        job.arrays,
        job.configuration.patch,
        batch=job.configuration.batch,
        block=job.options.block,
        share=job.options.share,
        seed=(job.seed, step),
    )


def _progress(position: Position, job: PretrainingJob) -> float:
    if job.time_s is not None:
        return min(position.elapsed_s / job.time_s, 1.0)
    return min(position.step / (job.steps or job.options.steps), 1.0)


def _moved(position: Position, error: float, zeros: float, elapsed_s: float) -> Position:
    """Return the position a step on; errors are running averages."""
    old = min(SMOOTH, position.step / (position.step + 1))
    return Position(
        basis=position.basis,
        step=position.step + 1,
        elapsed_s=elapsed_s,
        error=old * position.error + (1 - old) * error,
        zeros=old * position.zeros + (1 - old) * zeros,
    )


def _save(state: _State, job: PretrainingJob) -> None:
    tensors = {NETWORK + name: value for name, value in state.network.state_dict().items()}
    tensors |= optimizer_tensors(state.optimizer)
    save_weights(tensors, job.output.checkpoint, {POSITION: state.position.model_dump_json()})


def _resume(state: _State, job: PretrainingJob) -> None:
    path = job.output.checkpoint
    try:
        tensors, metadata = load_with_metadata(path)
        position = serial.decode(Position, metadata.get(POSITION, ""), source=str(path))
    except (ModelError, RecordError) as error:
        raise CheckpointError(
            f"{path}: damaged checkpoint ({error.message})",
            remedy="Pretrain from the start with --restart.",
        ) from error
    if position.basis != job.basis:
        raise CheckpointError(
            f"{path}: begun with another plan, other images or another seed",
            remedy="Give the same options to go on, or --restart to begin again.",
        )
    state.network.load_state_dict(_part(tensors, NETWORK))
    restore_optimizer(state.optimizer, _part(tensors, OPTIMIZER))
    state.position = position
    log.info("Resuming after step %d", position.step)


def _finish(state: _State, job: PretrainingJob) -> Pretrained:
    """Write description, then weights without heads (their presence says that it is finished).

    The description has the digest of the weights, so their file waits elsewhere for it.
    """
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in state.network.state_dict().items()
        if not is_head(name, job.configuration.network)
    }
    waiting = job.output.checkpoint.with_name(job.output.weights.name)
    save_weights(weights, waiting)
    position = state.position
    made = Pretrained(
        model=StartModel(
            folder=str(job.output.path),
            dataset=job.dataset,
            configuration=job.configuration.name,
            fold=PRETRAINED,
            digest=file_digest(waiting),
        ),
        channels=job.channels,
        configuration=job.configuration,
        options=job.options,
        decision=job.decision,
        cases=job.cases,
        images=job.images,
        steps=position.step,
        seconds=round(position.elapsed_s, 1),
        seed=job.seed,
        error=position.error,
        error_of_zeros=position.zeros,
    )
    serial.save(made, job.output.description)
    waiting.replace(job.output.weights)
    shutil.rmtree(job.output.checkpoint.parent, ignore_errors=True)
    return made


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
