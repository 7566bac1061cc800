"""TrainState, the only mutable object of training, and how it is built for a device.

Layout, compilation and number format are applied once, here; the loop does not know of them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from selfseg.networks.build import build_training_network
from selfseg.networks.device import is_out_of_memory, wait_for
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.networks.low_rank import updated
from selfseg.networks.precision import autocast_dtype
from selfseg.networks.training_heads import NO_HEADS, HeadCounts
from selfseg.records.optimization import Recipe
from selfseg.records.plan import Configuration
from selfseg.training.meter import LossMeter
from selfseg.training.optimizer import build_optimizer
from selfseg.training.tuning import Tuning, learn_alike

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], tuple[Tensor, ...]]  # a network as it is called

TIMED_STEPS = 3
# Losses in a row that may overflow in float16 while its scale settles; each halves the scale.
TOLERATED = 10


@dataclass
class TrainState:
    """Everything that changes during training.

    Attributes:
        network: The weights.
        forward: The network as it is called (compiled on CUDA).
        average: Running average of the weights by name; empty without averaging.
        optimizer: Its state.
        scaler: Loss scaling; disabled unless the format is float16.
        recipe: The recipe that this run follows.
        device: Where it trains.
        dtype: Format of automatic mixed precision; None is float32.
        layout: Memory format of images and weights.
        epoch, step: Finished epochs; finished steps.
        elapsed_s: Training time so far, over all resumes.
        losses: Of the current epoch.
        latest: Figures of the last epoch, for the progress bar.
        memory: What the loss remembers from step to step (see `DeeplySupervisedSum`).
        tuning: Which weights learn, and how.
    """

    network: nn.Module
    forward: Forward
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype | None
    layout: torch.memory_format
    losses: LossMeter
    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    latest: str = ""
    memory: dict[str, Tensor] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def precision(self) -> str:
        """The number format in words."""
        return "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")


def create_state(  # noqa: PLR0913 (what a state depends on)
    configuration: Configuration,
    recipe: Recipe,
    *,
    channels: int,
    outputs: int,
    seed: int,
    device: torch.device,
    layout: torch.memory_format | None = None,
    heads: HeadCounts = NO_HEADS,
    start_: Callable[[nn.Module], Tuning] = learn_alike,
    stream_outputs: int | None = None,
    borrowed: int = 0,
) -> TrainState:
    """Return the state at step 0; random weights depend on the seed only.

    Args:
        configuration: Network, batch and patch.
        recipe: Optimizer and averaging.
        channels: Input channels.
        outputs: Labels with background.
        seed: Of the initial weights.
        device: Where to train.
        layout: Memory format of a run that goes on; None chooses the faster one.
        heads: Further heads that the loss needs.
        start_: Fills the fresh network with other weights, and tells how they learn.
        stream_outputs: Outputs for an auxiliary data set.
        borrowed: Samples of a batch that come from one, and pass through the network apart.
    """
    torch.manual_seed(seed)
    network = build_training_network(
        configuration.network,
        channels=channels,
        outputs=outputs,
        heads=heads,
        stream_outputs=stream_outputs,
    )
    dtype, reason = autocast_dtype(device)
    log.info("Precision: %s", reason)
    network.to(device)
    shape = (configuration.batch, channels, *configuration.patch)
    layout = layout or choose_layout(network, shape, device)
    tuning = start_(network)
    set_layout(network.to(device), layout)
    forward: Forward = updated(network)
    if device.type == "cuda":
        # Where borrowed samples have a stream, they go through the network as it is.
        apart = 0 if hasattr(network, "auxiliary_stream") else borrowed
        calls = [(count, *shape[1:]) for count in {shape[0] - borrowed, apart} if count]
        forward = _compiled(updated(network), calls, device, layout, dtype)
    averaged = recipe.average_decay > 0
    return TrainState(
        network=network,
        forward=forward,
        average={n: p.detach().clone() for n, p in network.named_parameters()} if averaged else {},
        optimizer=build_optimizer(recipe.optimizer, network, tuning, fused=device.type == "cuda"),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        recipe=recipe,
        device=device,
        dtype=dtype,
        layout=layout,
        losses=LossMeter(device, tolerated=TOLERATED if dtype == torch.float16 else 0),
        tuning=tuning,
    )


def choose_layout(
    network: nn.Module, shape: tuple[int, ...], device: torch.device
) -> torch.memory_format:
    """Return the faster memory format for a batch of the given shape (b, c, *patch).

    On the CPU channels-last is always faster for these networks (oneDNN's backward pass), and a
    fixed choice keeps runs bit-equal; on CUDA both are timed.
    """
    channels_last = CHANNELS_LAST[len(shape) - 2]
    if device.type == "cpu":
        return channels_last
    times = {
        layout: _seconds_or_too_large(network, shape, device, layout)
        for layout in (torch.contiguous_format, channels_last)
    }
    best = min(times, key=lambda layout: times[layout])
    log.info("Layout: %s (%s)", best, ", ".join(f"{k}: {v * 1e3:.1f} ms" for k, v in times.items()))
    return best


def _seconds_or_too_large(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, layout: torch.memory_format
) -> float:
    """Time a step; one that does not fit is infinitely slow (compiled it may fit yet)."""
    try:
        return seconds_per_step(network, shape, device, layout)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # now that no error holds the tensors of the step
    return math.inf


def seconds_per_step(
    network: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    layout: torch.memory_format,
    *,
    limit_s: float = math.inf,
) -> float:
    """Return the time of a forward and backward pass; only the weights' layout changes.

    Args:
        network: On the device.
        shape: Of a batch (b, c, *patch).
        device: Where to measure.
        layout: Memory format of images and weights.
        limit_s: Stop early when so much time is used up; at least one pass counts.
    """
    set_layout(network, layout)
    dtype, _ = autocast_dtype(device)
    # The first pass warms up; on a CPU that costs little, and a slow one may count alone.
    needed = 1 if device.type == "cpu" else 2
    times: list[float] = []
    with _nothing_left(network):
        while len(times) < 1 + TIMED_STEPS and (len(times) < needed or sum(times) < limit_s):
            started_s = time.perf_counter()
            _pass(network, shape, device, layout, dtype)
            wait_for(device)
            times.append(time.perf_counter() - started_s)
    counted = times[1:] or times
    return sum(counted) / len(counted)


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute in the device's reduced format where there is one."""
    with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
        yield


@contextmanager
def _nothing_left(network: nn.Module) -> Iterator[None]:
    """Let passes be made on trial: no gradient stays, and no running statistic moves."""
    statistics = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, kept in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(kept)


def _pass(
    forward: Forward,
    shape: tuple[int, ...],
    device: torch.device,
    layout: torch.memory_format,
    dtype: torch.dtype | None,
) -> None:
    """Make a forward and backward pass on an image that lies in memory as those of steps do."""
    # `to` would give the one channel of most images other strides, and they would compile anew.
    image = torch.zeros(shape, device=device).contiguous(memory_format=layout)
    with mixed_precision(device, dtype):
        total = torch.stack([out.float().mean() for out in forward(image)]).sum()
    total.backward()  # type: ignore[no-untyped-call]


def _compiled(
    network: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    layout: torch.memory_format,
    dtype: torch.dtype | None,
) -> Forward:
    """Compile for images of some shapes, proven by a pass; else the network runs as it is."""
    # All networks of a class share their code. Without a reset the next one's patch would be
    # compiled with sizes that vary, which is slower, and the ninth network not at all.
    torch.compiler.reset()
    compiled = torch.compile(network, dynamic=False)
    try:
        for shape in shapes:
            with _nothing_left(network):
                _pass(compiled, shape, device, layout, dtype)
    except Exception as error:  # the compiler may fail in any way; training must not
        if is_out_of_memory(error):
            raise  # without the compiler it would take still more
        log.warning("torch.compile failed (%s); training without it", error)
        return network
    return compiled
