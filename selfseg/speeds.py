"""How long steps and predictions take on this machine, before anything is trained."""

from __future__ import annotations

import time
from math import ceil, prod
from typing import TYPE_CHECKING

from selfseg.records.plan import Configuration, Plan
from selfseg.records.run import FORWARD_SHARE

if TYPE_CHECKING:
    from selfseg.training.job import TrainingJob

TIMED_STEPS = 5


def case_seconds(plan: Plan, item: Configuration, step_s: float, *, mirrored: bool) -> float:
    """Return about how long the median case takes to predict, from the time of a training step."""
    views = 2 ** len(item.inference.mirror_axes) if mirrored else 1
    return step_s * FORWARD_SHARE / item.batch * _windows(plan, item) * views


def loss_step_seconds(job: TrainingJob, *, limit_s: float) -> float:
    """Return the time of a training step of a job with all terms of its loss.

    Steps are made with one real batch, after one that warms up, until `limit_s` is used up; the
    weights that come of them are thrown away.

    Raises:
        DatasetError: Cases are missing or damaged.
    """
    import torch

    from selfseg.loading.batches import training_batches
    from selfseg.losses.build import build_loss
    from selfseg.training.state import create_state
    from selfseg.training.step import train_step

    configuration, device = job.configuration, job.device
    recipe = configuration.optimization.short_recipe
    state = create_state(
        configuration,
        recipe,
        channels=job.channels,
        outputs=job.outputs,
        seed=job.seed,
        device=device,
        heads=job.heads,
    )
    loss = build_loss(configuration.loss, job.plan.targets).to(device)
    loss.progress = 1.0  # terms that start late count as well
    batches = training_batches(
        configuration,
        job.data,
        job.train_cases,
        steps=range(1),
        seed=job.seed,
        workers=0,
        device=device,
        previous=job.previous,
        maps=job.loss_maps,
    )
    batch, clip = next(batches), configuration.optimization.gradient_clip
    times: list[float] = []
    while len(times) < 2 or (len(times) <= TIMED_STEPS and sum(times) < limit_s):
        started_s = time.perf_counter()
        value = train_step(state, batch, loss, learning_rate=1e-6, gradient_clip=clip)
        value.item()  # waits for the device
        times.append(time.perf_counter() - started_s)
    if device.type == "cuda":
        del state
        torch.cuda.empty_cache()
    return sum(times[1:]) / len(times[1:])


def _windows(plan: Plan, item: Configuration) -> int:
    """Return about how many windows the median image takes."""
    patch = (1,) * (3 - len(item.patch)) + item.patch
    sizes = (patch[0] - 2 * item.context, *patch[1:])
    step = item.inference.step
    counts = [
        max(ceil((n - p) / (step * p)), 0) + 1
        for n, p in zip(item.median_shape, sizes, strict=True)
    ]
    if len(item.patch) == 2:
        counts[0] = _slices(plan, item)
    return prod(counts)


def _slices(plan: Plan, item: Configuration) -> int:
    """Return about how many slices the median image has for a 2D network.

    A 2D configuration leaves every case its own slices and plans with one; those with a third axis
    know about how many there are. Resampled ones may have fewer, hence the most.
    """
    alike = [
        other
        for other in plan.configurations
        if other.preprocessing.axes[0] == item.preprocessing.axes[0]
    ]
    return max(round(other.median_shape[0]) for other in (item, *alike))
