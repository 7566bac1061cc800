"""Train one fold of one configuration: a loop over batches with an explicit state."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator

from torch import nn

from selfseg.errors import CheckpointError, SelfSegError
from selfseg.inference.model import weights_digest
from selfseg.loading.batches import Batch, default_loader_workers, training_batches
from selfseg.losses.build import build_loss
from selfseg.networks.weights import save_weights
from selfseg.progress import ProgressBar
from selfseg.records import serial
from selfseg.records.model import EpochRecord, TrainedFold
from selfseg.records.plan import Configuration
from selfseg.training import history
from selfseg.training.checkpoints import Position, read_position, restore, save_checkpoint
from selfseg.training.epoch import EpochScores, score_epoch
from selfseg.training.job import Course, TrainingJob, plan_course, resume_course
from selfseg.training.schedule import learning_rate_factor
from selfseg.training.state import TrainState, create_state
from selfseg.training.step import final_weights, train_step

__all__ = ["TrainingJob", "train"]

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 300.0
ENDLESS = 2**40  # steps of a timed run: more than any machine makes


def train(job: TrainingJob) -> TrainedFold:
    """Train a fold to its end, from its checkpoint if there is one; return its description.

    A finished fold is not trained again. On a CPU a resumed run gives exactly the weights of an
    uninterrupted one, if its length is given in steps.

    Raises:
        CheckpointError: The checkpoint is damaged or belongs to other options.
        SelfSegError: The loss is no longer a number.
    """
    if job.restart:
        shutil.rmtree(job.output.path, ignore_errors=True)
    if job.output.weights.is_file():
        return _finished(job)
    state, course = _begin(job)
    loss = build_loss(job.configuration.loss).to(job.device)
    batches = _batches(job, course, state)
    with ProgressBar(f"Training {job.configuration.name} fold {job.fold}", 1000) as bar:
        while not course.is_over(state.step, state.elapsed_s):
            _train_epoch(state, job, course, loss, batches, bar)
    return _finish(state, job)


def _begin(job: TrainingJob) -> tuple[TrainState, Course]:
    """Return state and course: fresh, or as the checkpoint left them."""
    found = read_position(job.output)
    if found is None:
        course = plan_course(job)
    else:
        _check_agreement(found[0], job)
        course = resume_course(job, found[0].recipe, found[0].steps_per_epoch)
    state = create_state(
        job.configuration,
        course.recipe,
        channels=job.channels,
        outputs=job.outputs,
        seed=job.seed,
        device=job.device,
    )
    if found is not None:
        restore(state, *found)
        log.info("Resuming after epoch %d, step %d", state.epoch, state.step)
    history.forget_after(state.epoch, job.output.history)
    return state, course


def _batches(job: TrainingJob, course: Course, state: TrainState) -> Iterator[Batch]:
    workers = default_loader_workers(job.device) if job.workers is None else job.workers
    last = ENDLESS if course.total_steps is None else course.total_steps
    return training_batches(
        _as_recipe_says(job.configuration, course),
        job.data,
        job.train_cases,
        steps=range(state.step, last),
        seed=job.seed,
        workers=workers,
        device=job.device,
    )


def _train_epoch(
    state: TrainState,
    job: TrainingJob,
    course: Course,
    loss: nn.Module,
    batches: Iterator[Batch],
    bar: ProgressBar,
) -> None:
    """Train to the end of the epoch or of the run, score, write history and checkpoint."""
    options, recipe = job.configuration.optimization, course.recipe
    started, start_step, waited_s = time.perf_counter(), state.step, 0.0
    earlier_s, saved_s = state.elapsed_s, time.perf_counter()
    end = (state.epoch + 1) * course.steps_per_epoch
    epoch_start = course.progress(state.epoch * course.steps_per_epoch, state.elapsed_s)
    rate = recipe.optimizer.learning_rate
    state.network.train()
    while state.step < end and not course.is_over(state.step, state.elapsed_s):
        before = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - before
        progress = course.progress(state.step, state.elapsed_s)
        at = epoch_start if recipe.schedule_per_epoch else progress
        rate = recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, at)
        state.loss_sum += train_step(
            state, batch, loss, learning_rate=rate, gradient_clip=options.gradient_clip
        )
        state.loss_count += 1
        now = time.perf_counter()
        state.elapsed_s = earlier_s + now - started
        _show(bar, state, course, (now - started) / (state.step - start_step))
        if now - saved_s > CHECKPOINT_EVERY_S:
            _checkpoint(state, job, course)
            saved_s = time.perf_counter()
    mean_loss = _mean_loss(state)
    training_s = time.perf_counter() - started
    scores = score_epoch(state, job, course, loss)
    state.elapsed_s = earlier_s + time.perf_counter() - started
    state.epoch += 1
    state.loss_sum.zero_()
    state.loss_count = 0
    record = EpochRecord(
        epoch=state.epoch,
        step=state.step,
        learning_rate=rate,
        loss=mean_loss,
        validation_loss=scores.loss,
        dice=scores.dice,
        seconds=round(state.elapsed_s - earlier_s, 3),
        wait_share=round(waited_s / max(training_s, 1e-9), 4),
    )
    history.append(record, job.output.history)
    _checkpoint(state, job, course)
    _log_epoch(record, scores)


def _show(bar: ProgressBar, state: TrainState, course: Course, step_s: float) -> None:
    """Move the bar to the run's progress in thousandths: it knows steps and time alike."""
    done = int(1000 * course.progress(state.step, state.elapsed_s))
    note = f"epoch {state.epoch + 1}, step {state.step}, {step_s:.2f} s/step"
    bar.move_to(done, note=note)


def _log_epoch(record: EpochRecord, scores: EpochScores) -> None:
    dice = "" if scores.mean_dice is None else f", Dice {scores.mean_dice:.3f}"
    log.info(
        "Epoch %d: loss %.4f%s, %.1f s, waited for data %.1f %%",
        record.epoch,
        record.loss,
        dice,
        record.seconds,
        100 * record.wait_share,
    )


def _mean_loss(state: TrainState) -> float:
    """Return the epoch's mean loss; the one place where the loop waits for the device.

    Raises:
        SelfSegError: It is not a number; the last checkpoint is still good.
    """
    mean = float(state.loss_sum) / max(state.loss_count, 1)
    if not math.isfinite(mean):
        raise SelfSegError(
            f"the loss is {mean} after step {state.step}: training has diverged",
            remedy="Lower the learning rate (--set configurations.NAME.optimization.recipe."
            "optimizer.learning_rate=0.001 in 'plan'), then train with --restart.",
        )
    return mean


def _checkpoint(state: TrainState, job: TrainingJob, course: Course) -> None:
    _mean_loss(state)  # a state that has diverged must not replace a good checkpoint
    save_checkpoint(
        state,
        job.output,
        plan_digest=job.digest,
        seed=job.seed,
        steps_per_epoch=course.steps_per_epoch,
        recipe=course.kind,
    )


def _check_agreement(position: Position, job: TrainingJob) -> None:
    """Refuse to go on with other options than the run began with."""
    differing = []
    if position.plan_digest != job.digest:
        differing.append("the plan's configuration or the training cases")
    if position.seed != job.seed:
        differing.append(f"the seed ({position.seed} there, {job.seed} now)")
    if job.steps_per_epoch not in (None, position.steps_per_epoch):
        differing.append(
            f"the steps per epoch ({position.steps_per_epoch} there, {job.steps_per_epoch} now)"
        )
    if differing:
        raise CheckpointError(
            f"{job.output.checkpoint}: begun with other options: {'; '.join(differing)}",
            remedy="Give the same options to go on, or --restart to begin again.",
        )


def _as_recipe_says(configuration: Configuration, course: Course) -> Configuration:
    """Return the configuration with the augmentation that the recipe trains with."""
    if course.recipe.mirror:
        return configuration
    augmentation = configuration.augmentation.model_copy(update={"mirror_axes": ()})
    return configuration.model_copy(update={"augmentation": augmentation})


def _finish(state: TrainState, job: TrainingJob) -> TrainedFold:
    """Write description, then weights (their presence says that the fold is finished)."""
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
        precision="float32" if state.dtype is None else str(state.dtype).removeprefix("torch."),
        mirror_axes=mirror,
        train_cases=job.train_cases,
        validation_cases=job.validation_cases,
    )
    serial.save(fold, job.output.description)
    save_weights(final_weights(state), job.output.weights)
    shutil.rmtree(job.output.checkpoint.parent, ignore_errors=True)
    return fold


def _finished(job: TrainingJob) -> TrainedFold:
    """Return the description of a fold that is trained already, and say so."""
    shutil.rmtree(job.output.checkpoint.parent, ignore_errors=True)
    fold = serial.load(TrainedFold, job.output.description)
    log.info(
        "%s is trained already (%d epochs, %d steps, seed %d); --restart trains it again",
        job.output.path,
        fold.epochs,
        fold.steps,
        fold.seed,
    )
    return fold
