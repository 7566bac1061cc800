"""How a network is called on a device: layout, compiler, CUDA graphs; found by trial passes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfseg.networks.device import is_out_of_memory
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.training.trials import (
    Forward,
    blank_image,
    choose_layout,
    mixed_precision,
    nothing_left,
    seconds_per_step,
    trial_pass,
    unless_full,
)

log = logging.getLogger(__name__)

# A run of this length may spend two more compilations on finding the faster layout. One takes up
# to a minute for a large network.
LONG_RUN_S = 3600.0
# One of this length may spend one more on steps that replay CUDA graphs: while a step is computed
# in less time than its kernels are launched in, the device waits. They take memory of their own,
# so they must be worth it.
GRAPHS_RUN_S = 600.0
GRAPHS_TIME = 0.95  # of the time without them, at most


class Way(NamedTuple):
    """How a network is called: memory format, and whether its kernels are launched as one graph."""

    layout: torch.memory_format
    graphs: bool = False

    def __str__(self) -> str:
        name = "planar" if self.layout == torch.contiguous_format else "channels-last"
        return f"{name}, CUDA graphs" if self.graphs else name


@dataclass(frozen=True)
class Called:
    """A network as it is called.

    Attributes:
        forward: In a training step.
        way: How.
        seconds: Time of a forward and backward pass; infinite if memory does not suffice.
    """

    forward: Forward
    way: Way
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What is compiled and tried out.

    Attributes:
        network: On the device.
        shapes: Of images (b, c, *patch), whole batches first: they are timed.
        device: Where it trains.
        dtype: Of automatic mixed precision.
    """

    network: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    device: torch.device
    dtype: torch.dtype | None = None


def compile_for(
    trial: Trial, layout: torch.memory_format | None, *, run_s: Callable[[float], float]
) -> Called:
    """Return a network as it is called: compiled if possible, and in the fastest way.

    Channels-last is what convolutions on tensor cores want, and a compiled norm keeps it; torch's
    own does not, so times of a network that is not compiled tell nothing. A long run tries both,
    compiled. Where nothing can be compiled, both are timed as they are. CUDA graphs are tried where
    a step calls the network once: the next call takes the memory of the one before.

    Args:
        trial: What is compiled.
        layout: Of a run that goes on; None chooses.
        run_s: Seconds of the whole run if a step takes so many.

    Raises:
        RuntimeError: Memory ran out in every way.
    """
    network = trial.network
    best = last = _timed(trial, Way(layout or CHANNELS_LAST[len(trial.shapes[0]) - 2]))
    if last.forward is network and _fits(last):
        chosen = layout or choose_layout(network, trial.shapes[0], trial.device)
        return Called(network, Way(chosen), last.seconds)
    if layout is None and (not _fits(best) or run_s(best.seconds) >= LONG_RUN_S):
        last = _timed(trial, Way(torch.contiguous_format))
        log.info("Layout: %.1f ms %s, %.1f ms %s", *_told(best), *_told(last))
        best = min(best, last, key=lambda called: called.seconds)
    if len(trial.shapes) == 1 and _fits(best) and run_s(best.seconds) >= GRAPHS_RUN_S:
        last = _timed(trial, Way(best.way.layout, graphs=True))
        log.info("CUDA graphs: %.1f ms %s, %.1f ms %s", *_told(best), *_told(last))
        best = last if last.seconds <= GRAPHS_TIME * best.seconds else best
    if best is last and _fits(best):
        return best
    set_layout(network, best.way.layout)  # what was compiled is forgotten, but lies on the disk
    return Called(_compiled(trial, best.way), best.way, best.seconds)


def scoring_for(trial: Trial, called: Called) -> Forward:
    """Return a network as it is called without gradients: compiled too, if that works."""
    network, forward = trial.network, called.forward
    if forward is network:
        return forward
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for _ in range(2 if called.way.graphs else 1):
            with torch.no_grad(), mixed_precision(trial.device, trial.dtype):
                forward(blank_image(trial.shapes[0], trial.device, called.way.layout))
    except Exception as error:  # the compiler may fail in any way; training must not
        log.warning("torch.compile failed (%s); scoring epochs without it", error)
        return network
    finally:
        for module, mode in modes.items():
            module.training = mode
    return forward


def forget_compiled(device: torch.device) -> None:
    """Give back what compiled networks of this process hold on a device: graphs keep memory."""
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()


def _fits(called: Called) -> bool:
    return math.isfinite(called.seconds)


def _told(called: Called) -> tuple[float, Way]:
    return 1e3 * called.seconds, called.way


def _timed(trial: Trial, way: Way) -> Called:
    """Compile and time a step; without memory for it the network stays as it is."""
    network, device = trial.network, trial.device

    def make() -> Called:
        set_layout(network, way.layout)
        forward = _compiled(trial, way)
        if way.graphs and forward is network:
            return none
        seconds = seconds_per_step(network, trial.shapes[0], device, way.layout, forward=forward)
        return Called(forward, way, seconds)

    none = Called(network, way, math.inf)
    try:
        return unless_full(make) or none
    except Exception as error:  # graphs are replayed for the first time when they are timed
        if not way.graphs:
            raise
        log.warning("CUDA graphs failed (%s); training without", error)
        return none


def _compiled(trial: Trial, way: Way) -> Forward:
    """Compile for images of some shapes, proven by passes; else the network runs as it is.

    CUDA graphs are recorded in the second pass.
    """
    network = trial.network
    # All networks of a class share their code. Without a reset the next one's patch would be
    # compiled with sizes that vary, which is slower, and the ninth network not at all.
    torch.compiler.reset()
    compiled = torch.compile(
        network, dynamic=False, mode="reduce-overhead" if way.graphs else "default"
    )
    forward = _replayed(compiled) if way.graphs else compiled
    try:
        for shape in trial.shapes * (2 if way.graphs else 1):
            with nothing_left(network):
                trial_pass(forward, shape, trial.device, way.layout, trial.dtype)
    except Exception as error:  # the compiler may fail in any way; training must not
        if is_out_of_memory(error):
            raise  # without the compiler it would take still more
        what = "CUDA graphs" if way.graphs else "torch.compile"
        log.warning("%s failed (%s); training without", what, error)
        return network
    return forward


def _replayed(compiled: Forward) -> Forward:
    """Say before each call that nothing of the last one is needed: its memory is used again."""

    def forward(image: Tensor) -> tuple[Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(image)

    return forward
