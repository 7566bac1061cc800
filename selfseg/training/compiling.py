"""How a network is called on a device: memory layout and compiler, found by trial passes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from selfseg.networks.device import is_out_of_memory, wait_for
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.networks.precision import autocast_dtype

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], tuple[Tensor, ...]]  # a network as it is called

TIMED_STEPS = 3
# A run of this length may spend two more compilations on finding the faster layout. One takes up
# to a minute for a large network.
LONG_RUN_S = 3600.0


def compile_for(
    network: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    layout: torch.memory_format | None,
    dtype: torch.dtype | None,
    *,
    run_s: Callable[[float], float],
) -> tuple[Forward, torch.memory_format]:
    """Return a network as it is called, compiled if possible, and the layout for it.

    Channels-last is what convolutions on tensor cores want, and a compiled norm keeps it; torch's
    own does not, so times of a network that is not compiled tell nothing. A long run tries both,
    compiled. Where nothing can be compiled, both are timed as they are.

    Args:
        network: On the device.
        shapes: Of images; steps are timed with the first one.
        device: Where it trains.
        layout: Of a run that goes on; None chooses.
        dtype: Of automatic mixed precision.
        run_s: Seconds of the whole run if a step takes so many.

    Raises:
        RuntimeError: Memory ran out in either layout.
    """
    last = CHANNELS_LAST[len(shapes[0]) - 2]
    if layout is not None:
        set_layout(network, layout)
        return _compiled(network, shapes, device, layout, dtype), layout
    forward, last_s = _timed(network, shapes, device, last, dtype)
    if math.isfinite(last_s):
        if forward is network:
            return network, choose_layout(network, shapes[0], device)
        if run_s(last_s) < LONG_RUN_S:
            return forward, last
    forward, planar_s = _timed(network, shapes, device, torch.contiguous_format, dtype)
    log.info("Layout: %.1f ms channels-last, %.1f ms planar", 1e3 * last_s, 1e3 * planar_s)
    if planar_s < last_s:
        return forward, torch.contiguous_format
    set_layout(network, last)  # what was compiled for it is forgotten, but mostly lies on the disk
    return _compiled(network, shapes, device, last, dtype), last


def _timed(
    network: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    layout: torch.memory_format,
    dtype: torch.dtype | None,
) -> tuple[Forward, float]:
    """Compile for a layout; return the result and the time of a step, infinite without memory."""
    try:
        set_layout(network, layout)
        forward = _compiled(network, shapes, device, layout, dtype)
        return forward, seconds_per_step(network, shapes[0], device, layout, forward=forward)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # now that no error holds the tensors of the step
    return network, math.inf


def choose_layout(
    network: nn.Module, shape: tuple[int, ...], device: torch.device
) -> torch.memory_format:
    """Return the faster memory format for a batch of the given shape (b, c, *patch).

    On the CPU channels-last is always faster for these networks (oneDNN's backward pass), and a
    fixed choice keeps runs bit-equal; on CUDA both are timed.
    """
    channels_last = CHANNELS_LAST[len(shape) - 2]
    if device.type == "cpu":
        log.info("Layout: channels-last (always the faster one on a CPU)")
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
    with _nothing_left(network):
        while len(times) < 1 + TIMED_STEPS and (len(times) < needed or sum(times) < limit_s):
            started_s = time.perf_counter()
            _pass(network if forward is None else forward, shape, device, layout, dtype)
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
