"""Whether a checkpoint or a finished fold may stand for what a job asks for."""

from __future__ import annotations

import logging

from selfseg.errors import CheckpointError
from selfseg.inference.trained import weights_digest
from selfseg.records.model import TrainedFold
from selfseg.records.transfer import StartModel
from selfseg.training.checkpoints import Position
from selfseg.training.job import Course, TrainingJob
from selfseg.words import counted

log = logging.getLogger(__name__)


def check_position(position: Position, job: TrainingJob) -> None:
    """Refuse to go on with other options than the run began with.

    Raises:
        CheckpointError: Names all that differs.
    """
    differing = []
    if position.plan_digest not in (job.digest, job.digest_with_estimates):
        differing.append("the plan's configuration, or the training cases or their files")
    if position.seed != job.seed:
        differing.append(f"the seed ({position.seed} there, {job.seed} now)")
    if differs := _other_start(position.start, job):
        differing.append(differs)
    if job.steps_per_epoch not in (None, position.steps_per_epoch):
        differing.append(
            f"the steps per epoch ({position.steps_per_epoch} there, {job.steps_per_epoch} now)"
        )
    if differing:
        raise CheckpointError(
            f"{job.output.checkpoint}: begun with other options: {'; '.join(differing)}",
            remedy="Give the same options to go on, or --restart to begin again.",
        )


def warn_of_new_length(position: Position, course: Course) -> None:
    """Say so if a run goes on with another length: its learning rate jumps to the new schedule."""
    before = _length(position.total_steps, position.time_s)
    now = _length(course.total_steps, course.time_s)
    if before != now:
        log.warning("This run was begun for %s and goes on for %s", before, now)


def check_finished(fold: TrainedFold, job: TrainingJob) -> None:
    """Refuse a finished fold that does not belong to the job; say how it was trained.

    Raises:
        CheckpointError: It was trained with another plan, other cases, or from another start.
    """
    differing = []
    if fold.plan_digest != weights_digest(job.plan, job.configuration):
        differing.append("channels, labels, preprocessing, network or crop of the plan")
    if set(fold.train_cases) != set(job.train_cases):
        differing.append("the training cases")
    elif fold.data_digest != job.data_digest:
        differing.append("images, references or labels of the training cases")
    if job.start is not None and (differs := _other_start(fold.start, job)):
        differing.append(differs)
    if fold.previous_digest != job.previous_digest:
        differing.append(f"the weights of {job.configuration.previous_stage}")
    if differing:
        raise CheckpointError(
            f"{job.output.path}: trained with other options: {'; '.join(differing)}",
            remedy="Train it again with --restart, or restore the plan that it was trained with.",
        )
    log.info(
        "%s is trained already (%s, %s, %.0f s, seed %d); --restart trains it again",
        job.output.path,
        counted(fold.epochs, "epoch"),
        counted(fold.steps, "step"),
        fold.seconds,
        fold.seed,
    )
    asked = _asked_otherwise(fold, job)
    if asked:
        log.warning("It was not trained for %s; --restart would", asked)
    if job.start is None and fold.start is not None:
        log.warning("It started from %s; --restart starts from random weights", fold.start.title)


def _asked_otherwise(fold: TrainedFold, job: TrainingJob) -> str:
    """Return what the options ask for that the fold is not; the plan's defaults do not ask."""
    asked = []
    if job.seed != fold.seed:
        asked.append(f"seed {job.seed}")
    if job.time_s is not None:
        if round(fold.seconds) < round(job.time_s):
            asked.append(f"{job.time_s:.0f} s")
    else:
        if job.epochs not in (None, fold.epochs):
            asked.append(counted(job.epochs, "epoch"))
        if job.steps_per_epoch not in (None, round(fold.steps / max(fold.epochs, 1))):
            asked.append(f"{counted(job.steps_per_epoch, 'step')} an epoch")
    return ", ".join(asked)


def _other_start(start: StartModel | None, job: TrainingJob) -> str:
    """Return how a training began otherwise than a job would; '' if it did not."""
    now = None if job.start is None else job.start.model
    if (start and start.digest) == (now and now.digest):
        return ""
    if start is not None and now is not None and start.title == now.title:
        return f"the weights of {now.title} (digest {start.digest} there, {now.digest} now)"
    there, here = (model.title if model else "random weights" for model in (start, now))
    return f"what it starts from ({there} there, {here} now)"


def _length(total_steps: int | None, time_s: float | None) -> str:
    return counted(total_steps or 0, "step") if time_s is None else f"{time_s:.0f} s"
