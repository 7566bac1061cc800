"""What the benchmark on a GPU takes of a training: times, busy share, tiles, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from gpusteps import OUTPUTS, Ours, Size
from torch._C._autograd import DeviceType

from selfseg.inference.ensemble import turn
from selfseg.inference.logit_store import LogitStore
from selfseg.inference.model import load_model
from selfseg.inference.sliding_window import predict_logits
from selfseg.inference.window_grid import make_grid
from selfseg.networks.device import wait_for
from selfseg.records.plan import Inference


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long some work takes, until the device has done all of it."""
    wait_for(device)
    began_s = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began_s


def seconds_a_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the mean time of so many steps."""

    def all_of_them() -> None:
        for _ in range(steps):
            step()

    return seconds(all_of_them, device) / steps


def busy_and_waited(
    ours: Ours, steps: int, device: torch.device
) -> tuple[float | None, float | None]:
    """Return the shares of the time in which the device computes, and a batch is waited for.

    None on a CPU.
    """
    if device.type != "cuda":
        return None, None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        ours.waited_s = 0.0
        taken_s = steps * seconds_a_step(ours, steps, device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    )
    return busy_share(spans), ours.waited_s / taken_s


def busy_share(spans: Sequence[tuple[float, float]]) -> float | None:
    """Return the share of the time from the first to the last of sorted spans that they cover."""
    if not spans:
        return None
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return float(busy / (reached - spans[0][0]))


def tiles_per_second(ours: Ours, size: Size, device: torch.device) -> float:
    """Return how many windows of a training patch's size are predicted a second, no mirroring.

    The model is written and loaded, and its weights are brought to the device, as `selfseg predict`
    does; that is not in the figure.
    """
    model = load_model(ours.finish(), device=device)
    image = torch.randn(1, *(3 * side for side in size.patch))
    options, store = Inference(mirror_axes=()), LogitStore()
    grid = make_grid(image.shape[1:], size.patch, step=options.step, sigma=options.window_sigma)

    def predict() -> None:
        predict_logits(
            model.network, image, patch=size.patch, options=options, outputs=OUTPUTS, device=device
        )

    with turn(model.network, device, store.budget.device_weights_bytes(device)):
        predict()  # warms up
        return len(grid.windows()) / seconds(predict, device)


def epoch_end(ours: Ours, device: torch.device) -> tuple[float, float]:
    """Return the seconds that training spends on scoring an epoch, and on its checkpoint."""
    ours.score()  # warms up, and loads
    return seconds(ours.score, device), seconds(ours.keep, device)


def peak_gib(step: Callable[[], None], device: torch.device) -> float | None:
    """Return the most device memory during a step after the first ones; None on a CPU.

    What building the network took, and trying convolutions in the first step, is not in it.
    """
    if device.type != "cuda":
        return None
    wait_for(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device) / 2**30
