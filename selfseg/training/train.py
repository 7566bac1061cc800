"""Train one fold of one configuration: a loop over batches with an explicit state."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from selfseg.errors import DeviceError
from selfseg.execution.locks import held
from selfseg.execution.termination import EXIT_TERMINATED, termination_noted
from selfseg.files import forget_folder, forget_unfinished
from selfseg.inference.trained import weights_digest
from selfseg.loading.batches import TimedBatches, ValidationBatches
from selfseg.losses.build import DeeplySupervisedSum, build_loss
from selfseg.networks.convolution_check import warn_of_slow_convolutions
from selfseg.networks.device import in_short, is_out_of_memory
from selfseg.networks.precision import autocast_dtype
from selfseg.networks.weights import save_weights
from selfseg.progress import ProgressBar
from selfseg.records import serial
from selfseg.records.model import EpochRecord, TrainedFold
from selfseg.training import history
from selfseg.training.agreement import check_finished
from selfseg.training.begin import as_recipe_says, batches_of, begin, validation_of
from selfseg.training.borrowing import Borrowing, start_borrowing
from selfseg.training.compiling import forget_compiled
from selfseg.training.epoch import score_epoch
from selfseg.training.job import Course, TrainingJob
from selfseg.training.memory_use import MemoryUse
from selfseg.training.saving import Saver
from selfseg.training.schedule import learning_rate_factor
from selfseg.training.shapes import prepare_shapes
from selfseg.training.state import TrainState
from selfseg.training.step import final_weights, train_step
from selfseg.training.telling import (
    PARTS,
    LongWaits,
    diverged,
    expected_memory,
    parts_done,
    show,
    tell_device,
    tell_epoch,
    written_to,
)

__all__ = ["TrainingJob", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What stays the same while a fold trains; `zero_s` is the clock's value at elapsed time 0.

    `is_asked_to_end` tells whether the program is to end before the run does.
    """

    job: TrainingJob
    course: Course
    loss: DeeplySupervisedSum
    batches: TimedBatches
    validation: ValidationBatches | None
    bar: ProgressBar
    memory: MemoryUse
    saver: Saver
    waits: LongWaits
    zero_s: float
    is_asked_to_end: Callable[[], bool]
    borrowing: Borrowing | None = None

    def is_over(self, state: TrainState) -> bool:
        """Tell whether the run has reached its length."""
        return self.course.is_over(state.step, state.elapsed_s)


def train(job: TrainingJob) -> TrainedFold:
    """Train a fold to its end, from its checkpoint if there is one; return its description.

    A finished fold is not trained again. On a CPU a resumed run gives exactly the weights of an
    uninterrupted one, if its length is given in steps. SIGTERM ends the program after the step at
    work, which is kept.

    Raises:
        CheckpointError: The checkpoint is damaged, or it or the finished fold belongs to other
            options.
        DeviceError: Out of memory, or another process trains this fold.
        DivergenceError: The loss is no longer a number.
    """
    with held(job.output.lock, f"fold {job.fold} of {job.configuration.name} is being trained"):
        try:
            return _train(job)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            patch = f"configurations.{job.configuration.name}.batch"
            raise DeviceError(
                f"{job.device}: out of memory at batch {job.configuration.batch} and patch "
                f"{'×'.join(map(str, job.configuration.patch))} ({in_short(error)})",
                remedy="Close other programs on the device, or plan for less: 'selfseg plan "
                f"DATASET --memory 6GB', or --set {patch}=N.",
            ) from error
        finally:
            forget_compiled(job.device)


def _train(job: TrainingJob) -> TrainedFold:
    started_s = time.perf_counter()
    if job.restart:
        forget_folder(job.output.path)
    if job.output.weights.is_file():
        return _finished(job)
    forget_unfinished(job.output.checkpoint, job.output.weights, job.output.history)
    with written_to(job.output.log):
        return _trained(job, started_s)


def _trained(job: TrainingJob, started_s: float) -> TrainedFold:
    """Train what is left; `started_s` is the clock's value when the preparations began."""
    tell_device(job.device)
    if len(job.configuration.patch) == 3:
        warn_of_slow_convolutions(job.device, autocast_dtype(job.device)[0])
    memory = MemoryUse(job.device)
    state, course = begin(job)
    memory.data_follows()  # and what fitting shapes leaves behind
    loss = build_loss(job.configuration.loss, job.plan.targets, prepare_shapes(job))
    loss.memory = state.memory
    steps = course.steps_from(state.step)
    label = f"Training {job.configuration.name} fold {job.fold}"
    bar = ProgressBar(label, PARTS, start=parts_done(state, course), as_share=True)
    configuration = as_recipe_says(job.configuration, course)
    progress = course.progress(state.step, state.elapsed_s)
    with termination_noted() as is_asked_to_end:
        with bar:
            run = Run(
                job=job,
                course=course,
                loss=loss.to(job.device),
                batches=batches_of(job, course, state),
                validation=validation_of(job, course),
                bar=bar,
                memory=memory,
                saver=Saver(job, course),
                waits=LongWaits(job.workers),
                zero_s=started_s - state.elapsed_s,  # a timed run pays for its preparations too
                is_asked_to_end=is_asked_to_end,
                borrowing=start_borrowing(job, configuration, steps, progress),
            )
            memory.steps_follow()
            state.elapsed_s = time.perf_counter() - run.zero_s
            _train_epochs(state, run)
        return _finish(state, job, memory.peak_gib())


def _train_epochs(state: TrainState, run: Run) -> None:
    """Train to the end of the run, and keep that: nothing is left to do but writing the weights."""
    while not run.is_over(state):
        try:
            _train_epoch(state, run)
        except DeviceError:  # a scheduler asks those who prepare batches to end as well
            _stop_if_asked(state, run)
            raise
    run.saver.save(state)


def _train_epoch(state: TrainState, run: Run) -> None:
    """Train to the end of the epoch or of the run, score, write history."""
    job, began_s = run.job, state.elapsed_s
    state.tuning.train_(state.network)
    rate, waited_s = _train_steps(state, run)
    _refuse_divergence(state, run)
    mean_loss = state.losses.mean()
    training_s = time.perf_counter() - run.zero_s - began_s
    scores = score_epoch(state, run.validation, run.loss, job.plan.targets)
    state.elapsed_s = time.perf_counter() - run.zero_s
    state.epoch += 1
    state.losses.set(0.0, 0)
    record = EpochRecord(
        epoch=state.epoch,
        step=state.step,
        learning_rate=rate,
        loss=mean_loss,
        validation_loss=scores.loss,
        dice=scores.dice,
        seconds=round(state.elapsed_s - began_s, 3),
        wait_share=round(waited_s / max(training_s, 1e-9), 4),
    )
    history.append(record, job.output.history)
    tell_epoch(state, record, scores)
    run.waits.look_at(record.wait_share, is_last=run.is_over(state))


def _train_steps(state: TrainState, run: Run) -> tuple[float, float]:
    """Make the steps of an epoch; return the last learning rate and the seconds without data."""
    recipe, course = run.course.recipe, run.course
    rate, steps, waited_s = recipe.optimizer.learning_rate, 0, run.batches.waited_s
    began_s = time.perf_counter()
    end = (state.epoch + 1) * course.steps_per_epoch
    while state.step < end and not run.is_over(state):
        _stop_if_asked(state, run)
        if run.saver.is_due():
            _keep(state, run)
        batch = next(run.batches)
        progress = course.schedule_progress(state.step, state.elapsed_s)
        rate = recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, progress)
        run.loss.progress = course.progress(state.step, state.elapsed_s)
        state.tuning.release_(state.network, run.loss.progress)
        run.loss.step = state.step
        borrowed = None if run.borrowing is None else run.borrowing.next(run.loss.progress)
        state.losses.add(
            train_step(
                state,
                batch,
                run.loss,
                learning_rate=rate,
                gradient_clip=run.job.configuration.optimization.gradient_clip,
                borrowed=borrowed,
            )
        )
        if state.device.type == "cpu":  # elsewhere reading the loss would wait for the device
            _refuse_divergence(state, run)
        now_s = time.perf_counter()
        state.elapsed_s = now_s - run.zero_s
        steps += 1
        run.memory.step_made()
        show(state, run.course, run.bar, step_s=(now_s - began_s) / steps)
    return rate, run.batches.waited_s - waited_s


def _stop_if_asked(state: TrainState, run: Run) -> None:
    """Keep how far the run is and end the program, if it is asked to end."""
    if run.is_asked_to_end():
        _keep(state, run)
        log.info("Asked to end: kept as it is after step %d", state.step)
        sys.exit(EXIT_TERMINATED)


def _keep(state: TrainState, run: Run) -> None:
    """Write a checkpoint, between steps; never one of weights that are no numbers."""
    if state.step > state.epoch * run.course.steps_per_epoch:  # else there is no loss to check
        _refuse_divergence(state, run)
    run.saver.save(state)


def _refuse_divergence(state: TrainState, run: Run) -> None:
    """Stop when the loss is no number for good, before a checkpoint could keep such weights.

    Raises:
        DivergenceError: It is; the last checkpoint is still good.
    """
    if not state.losses.has_diverged() and math.isfinite(state.losses.mean()):
        return
    raise diverged(run.job, run.course, state.step)


def _finish(state: TrainState, job: TrainingJob, peak_gib: float | None) -> TrainedFold:
    """Write description, then weights (their presence says that the fold is finished)."""
    if peak_gib is not None:
        expected = expected_memory(state, job)
        log.info("Memory: at most %.2f GiB; the plan expected %s", peak_gib, expected)
    mirror = job.configuration.augmentation.mirror_axes if state.recipe.mirror else ()
    fold = TrainedFold(
        configuration=job.configuration.name,
        fold=job.fold,
        plan_digest=weights_digest(job.plan, job.configuration),
        dataset=job.plan.dataset,
        seed=job.seed,
        epochs=state.epoch,
        steps=state.step,
        seconds=round(state.elapsed_s, 1),
        peak_gib=None if peak_gib is None else round(peak_gib, 3),
        precision=state.precision,
        mirror_axes=mirror,
        data_digest=job.data_digest,
        previous_digest=job.previous_digest,
        train_cases=job.train_cases,
        validation_cases=job.validation_cases,
        start=None if job.start is None else job.start.model,
    )
    serial.save(fold, job.output.description)
    save_weights(final_weights(state), job.output.weights)
    shutil.rmtree(job.output.checkpoint.parent, ignore_errors=True)
    return fold


def _finished(job: TrainingJob) -> TrainedFold:
    """Return the description of a fold that is trained already."""
    fold = serial.load(TrainedFold, job.output.description)
    check_finished(fold, job)
    shutil.rmtree(job.output.checkpoint.parent, ignore_errors=True)
    return fold
