"""Trial passes of a network on a device: how long a step takes, and in which memory layout."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from selfseg.networks.device import is_out_of_memory, wait_for
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.networks.precision import autocast_dtype

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], tuple[Tensor, ...]]  # a network as it is called
T = TypeVar("T")

TIMED_STEPS = 3


def choose_layout(
    network: nn.Module, shape: tuple[int, ...], device: torch.device
) -> torch.memory_format:
    """Return the faster memory format for a batch of the given shape (b, c, *patch).

    On the CPU channels-last is always faster for these networks (oneDNN's backward pass), and a
    fixed choice keeps runs bit-equal; on CUDA both are timed. One that does not fit is infinitely
    slow (compiled it may fit yet).
    """
    channels_last = CHANNELS_LAST[len(shape) - 2]
    if device.type == "cpu":
        log.info("Layout: channels-last (always the faster one on a CPU)")
        return channels_last
    times = {
        layout: unless_full(partial(seconds_per_step, network, shape, device, layout)) or math.inf
        for layout in (torch.contiguous_format, channels_last)
    }
    best = min(times, key=lambda layout: times[layout])
    log.info("Layout: %s (%s)", best, ", ".join(f"{k}: {v * 1e3:.1f} ms" for k, v in times.items()))
    return best


def seconds_per_step(
    network: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    layout: torch.memory_format,
    *,
    limit_s: float = math.inf,
    forward: Forward | None = None,
) -> float:
    """Return the time of a forward and backward pass; only the weights' layout changes.

    Args:
        network: On the device.
        shape: Of a batch (b, c, *patch).
        device: Where to measure.
        layout: Memory format of images and weights.
        limit_s: Stop early when so much time is used up; at least one pass counts.
        forward: The network as it is called; None: as it is.
    """
    set_layout(network, layout)
    dtype, _ = autocast_dtype(device)
    # The first pass warms up; on a CPU that costs little, and a slow one may count alone.
    needed = 1 if device.type == "cpu" else 2
    times: list[float] = []
    with nothing_left(network):
        while len(times) < 1 + TIMED_STEPS and (len(times) < needed or sum(times) < limit_s):
            started_s = time.perf_counter()
            trial_pass(network if forward is None else forward, shape, device, layout, dtype)
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
def nothing_left(network: nn.Module) -> Iterator[None]:
    """Let passes be made on trial: no gradient stays, and no running statistic moves."""
    statistics = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, kept in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(kept)


def trial_pass(
    forward: Forward,
    shape: tuple[int, ...],
    device: torch.device,
    layout: torch.memory_format,
    dtype: torch.dtype | None,
) -> None:
    """Make a forward and backward pass on an image of zeros."""
    image = blank_image(shape, device, layout)
    with mixed_precision(device, dtype):
        total = torch.stack([out.float().mean() for out in forward(image)]).sum()
    total.backward()  # type: ignore[no-untyped-call]


def blank_image(
    shape: tuple[int, ...], device: torch.device, layout: torch.memory_format
) -> Tensor:
    """Return an image of zeros that lies in memory as those of steps do."""
    # `to` would give the one channel of most images other strides, and they would compile anew.
    return torch.zeros(shape, device=device).contiguous(memory_format=layout)


def unless_full(make: Callable[[], T]) -> T | None:
    """Return what is made; None if memory ran out."""
    try:
        return make()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # now that no error holds the tensors of the step
    return None
