"""What a training tells while it runs: its device, how far it is, every epoch, train.log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from selfseg.errors import DivergenceError
from selfseg.execution.resources import usable_cores
from selfseg.progress import ProgressBar
from selfseg.records.model import EpochRecord
from selfseg.training.epoch import EpochScores
from selfseg.training.job import Course, TrainingJob
from selfseg.training.state import TrainState
from selfseg.words import counted

log = logging.getLogger(__name__)

LONG_WAIT = 0.1  # share of the training time
PARTS = 1000  # of a run, on the bar: it knows steps and time alike


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Append what is logged meanwhile to a file, with the time of each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("selfseg")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def tell_device(device: torch.device) -> None:
    """Log what computes."""
    if device.type == "cuda":
        log.info("Device: %s (%s)", torch.cuda.get_device_name(device), device)
    else:
        log.info("Device: CPU, %s", counted(torch.get_num_threads(), "thread"))


def parts_done(state: TrainState, course: Course) -> int:
    """Return how many parts of the run are over."""
    return int(PARTS * course.progress(state.step, state.elapsed_s))


def show(state: TrainState, course: Course, bar: ProgressBar, *, step_s: float) -> None:
    """Move the bar to where the run is."""
    note = f"epoch {state.epoch + 1}, step {state.step}, {step_s:.2f} s/step"
    if state.device.type == "cpu":
        note += f", loss {state.losses.mean():.3f}"
    bar.move_to(parts_done(state, course), note=note + state.latest)


def tell_epoch(state: TrainState, record: EpochRecord, scores: EpochScores) -> None:
    """Log an epoch, and keep its figures for the bar."""
    dice = "" if scores.mean_dice is None else f", Dice {scores.mean_dice:.3f}"
    on_bar = "" if state.device.type == "cpu" else f", loss {record.loss:.3f}"
    state.latest = on_bar + dice
    log.info(
        "Epoch %d: loss %.4f%s, %.1f s, waited for data %.1f %%",
        record.epoch,
        record.loss,
        dice,
        record.seconds,
        100 * record.wait_share,
    )


class LongWaits:
    """Warns once of a run that waits for data.

    The first epoch of a process also reads files for the first time; it counts if no other follows.

    Args:
        workers: Processes that prepare batches; None: as many as suit the device, at least one.
    """

    def __init__(self, workers: int | None) -> None:
        self._epochs, self._is_told = 0, False
        self._advice: str | None = (
            "Training waits for data %.0f %% of the time: give it more processes (--workers) if "
            "there are free cores, or keep the preprocessed cases on a faster disk"
        )
        if workers == 0:  # what is waited for is made here; only another core could do it
            self._advice = (
                None
                if usable_cores() == 1
                else (
                    "Training makes its batches itself %.0f %% of the time (--workers 0): "
                    "with --workers 1 another process makes them meanwhile"
                )
            )

    def look_at(self, wait_share: float, *, is_last: bool) -> None:
        """Take the share of an epoch's time in which there were no data."""
        self._epochs += 1
        is_settled = self._epochs > 1 or is_last
        if self._advice is None or self._is_told or not is_settled or wait_share <= LONG_WAIT:
            return
        self._is_told = True
        log.warning(self._advice, 100 * wait_share)


def expected_memory(state: TrainState, job: TrainingJob) -> str:
    """Return the plan's estimate in words, for the number format that was trained in."""
    planned = job.configuration
    if state.device.type == "cpu" and state.precision == "bfloat16":
        if planned.memory_bfloat16_gib is not None:
            return f"{planned.memory_bfloat16_gib:.2f} GiB in bfloat16"
        return f"{planned.memory_gib:.2f} GiB in float32"
    return f"{planned.memory_gib:.2f} GiB"


def diverged(job: TrainingJob, course: Course, step: int) -> DivergenceError:
    """Return the error of a loss that is not a number, with the option that lowers the rate."""
    recipe = "recipe" if course.kind == "long" else "short_recipe"
    place = f"configurations.{job.configuration.name}.optimization.{recipe}.optimizer"
    rate = f"{place}.learning_rate={course.recipe.optimizer.learning_rate / 10:g}"
    return DivergenceError(
        f"{job.output.path}: the loss is not a number after step {step}: training has diverged",
        step=step,
        remedy=f"Lower the learning rate ('selfseg plan DATASET --set {rate}'), then train with "
        "--restart.",
    )
