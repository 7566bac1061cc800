"""Begin a training, or take it up where its checkpoint left it: state, course, batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from selfseg.loading.batches import (
    Batch,
    Batches,
    TimedBatches,
    ValidationBatches,
    default_loader_workers,
    training_batches,
    validation_batches,
)
from selfseg.records.plan import Configuration
from selfseg.training import history
from selfseg.training.agreement import check_position, warn_of_new_length
from selfseg.training.checkpoints import read_position, restore
from selfseg.training.job import Course, TrainingJob, plan_course, resume_course
from selfseg.training.second_encoder import start_encoders
from selfseg.training.start import start_
from selfseg.training.state import TrainState, create_state

log = logging.getLogger(__name__)


def begin(job: TrainingJob) -> tuple[TrainState, Course]:
    """Return state and course: fresh, or as the checkpoint left them."""
    found = read_position(job.output)
    layout = None
    if found is None:
        course = plan_course(job)
    else:
        position = found[0]
        check_position(position, job)
        course = resume_course(
            job,
            kind=position.recipe,
            steps_per_epoch=position.steps_per_epoch,
            total_steps=position.total_steps,
            time_s=position.time_s,
        )
        warn_of_new_length(position, course)
        layout = position.layout_on(job.device, len(job.configuration.patch))
    state = create_state(
        job.configuration,
        course.recipe,
        channels=job.channels,
        outputs=job.outputs,
        seed=job.seed,
        device=job.device,
        layout=layout,
        heads=job.heads,
        start_=partial(start_, job=job),
        stream_outputs=None if job.auxiliary is None else job.auxiliary.targets.outputs,
        borrowed=job.borrowed_samples,
        run_s=course.run_s,
    )
    if found is None and job.source is not None:
        start_encoders(state, job.source)
    if found is not None:
        restore(state, *found)
        log.info("Resuming after epoch %d, step %d", state.epoch, state.step)
        if found[0].precision != state.precision:
            log.warning("Going on in %s after %s", state.precision, found[0].precision)
    history.forget_after(state.epoch, job.output.history)
    return state, course


def batches_of(job: TrainingJob, course: Course, state: TrainState) -> TimedBatches:
    """Return the primary batches of the steps that are left.

    They make room for auxiliary samples; once there are none, they are those of a training on the
    primary data set alone.
    """
    whole = partial(_primary_batches, job, course, state)
    if job.auxiliary is None:
        return whole()
    options = job.auxiliary.options

    def is_over() -> bool:
        return options.is_over(course.progress(state.step, state.elapsed_s))

    if is_over():
        return whole()
    own = range(job.configuration.batch - job.borrowed_samples)
    return _PartsThenWhole(whole(part=own), whole, is_over)


class _PartsThenWhole(Iterator[Batch]):
    """Parts of batches until the step at which that is over, then whole ones."""

    def __init__(
        self, parts: Batches, whole: Callable[[], Batches], is_over: Callable[[], bool]
    ) -> None:
        self._batches, self._whole = parts, whole
        self._is_over: Callable[[], bool] | None = is_over
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds waited for data so far."""
        return self._waited_s + self._batches.waited_s

    def __next__(self) -> Batch:
        if self._is_over is not None and self._is_over():
            self._waited_s = self.waited_s
            del self._batches  # ends its processes, and frees the cases held in memory, first
            self._batches, self._is_over = self._whole(), None
        return next(self._batches)


def _primary_batches(
    job: TrainingJob, course: Course, state: TrainState, *, part: range | None = None
) -> Batches:
    """Return the batches of the steps from now on, or a part of each."""
    return training_batches(
        as_recipe_says(job.configuration, course),
        job.data,
        job.train_cases,
        steps=course.steps_from(state.step),
        seed=job.seed,
        workers=default_loader_workers(job.device) if job.workers is None else job.workers,
        device=job.device,
        part=part,
        previous=job.previous,
        maps=job.loss_maps,
    )


def validation_of(job: TrainingJob, course: Course) -> ValidationBatches | None:
    """Return the batches that every epoch is scored on; None without cases for them."""
    cases = job.sampled(job.validation_cases)
    if not cases:
        return None
    return validation_batches(
        job.configuration,
        job.data,
        cases,
        steps=course.validation_steps,
        seed=job.seed,
        workers=0,
        device=job.device,
        previous=job.previous,
        maps=job.loss_maps,
    )


def as_recipe_says(configuration: Configuration, course: Course) -> Configuration:
    """Return the configuration with the augmentation that the recipe trains with."""
    planned, recipe = configuration.augmentation, course.recipe
    changes = {
        "mirror_axes": planned.mirror_axes if recipe.mirror else (),
        "rotation_degrees": min(planned.rotation_degrees, recipe.rotation_limit_degrees),
    }
    augmentation = planned.model_copy(update=changes)
    return configuration.model_copy(update={"augmentation": augmentation})
