"""What is to be trained, and how long."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from selfseg.loading.patches import PreviousStage
from selfseg.networks.build import build_training_network
from selfseg.networks.training_heads import HeadCounts, needed_heads
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Targets
from selfseg.records.optimization import Recipe
from selfseg.records.plan import Configuration, Plan
from selfseg.records.run import MEASURING_SHARE
from selfseg.training.schedule import choose_recipe
from selfseg.training.transfer import SourceModel
from selfseg.training.trials import choose_layout, seconds_per_step
from selfseg.training.tuning import transfer_recipe
from selfseg.workspace.network import FoldFolder

log = logging.getLogger(__name__)

# A timed training is cut into about so many epochs: often enough to see it go and to save.
EPOCHS_OF_TIMED_RUN = 25
ENDLESS = 2**40  # steps of a timed run: more than any machine makes


@dataclass(frozen=True)
class AuxiliaryData:
    """A second data set on the grid of the first.

    Attributes:
        options: How it takes part.
        targets: What its label indices mean.
        cases: Ids.
        data: Folder of its preprocessed cases.
        data_digest: Of the files that they were made from.
    """

    options: Auxiliary
    targets: Targets
    cases: tuple[str, ...]
    data: Path
    data_digest: str


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One fold of one configuration.

    Attributes:
        plan, configuration: What was decided.
        fold: `0`, `1`, … or `all`.
        train_cases, validation_cases: Case ids; no validation for `all`.
        data: Folder of the preprocessed cases.
        data_digest: Of the files that they were made from.
        previous_digest: In a cascade, of the previous stage's weights.
        previous, previous_maps: In a cascade, the previous stage's segmentations on the grid of
            `data`, and for each case the label map that they were made from.
        loss_maps: Folder of what the loss needs besides the labels.
        start: Model whose weights the training starts with; None: random ones.
        auxiliary: The second data set that is trained on too; None: there is none.
        source: Weights that both encoders of a gated network start at; None: random ones.
        output: Where the model goes.
        epochs, steps_per_epoch: In place of the plan's.
        time_s: Train for so long instead; the schedule ends with the time.
        seed: Of weights and batches.
        device: Where to train.
        workers: Processes that prepare batches; None decides by the device.
        restart: Forget former progress.
    """

    plan: Plan
    configuration: Configuration
    fold: str
    train_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    data: Path
    data_digest: str = ""
    previous_digest: str = ""
    output: FoldFolder
    epochs: int | None = None
    steps_per_epoch: int | None = None
    time_s: float | None = None
    seed: int = 0
    device: torch.device
    workers: int | None = None
    restart: bool = False
    previous: PreviousStage | None = None
    previous_maps: Mapping[str, Path] | None = None
    loss_maps: Path | None = None
    start: SourceModel | None = None
    auxiliary: AuxiliaryData | None = None
    source: Path | None = None

    @property
    def borrowed_samples(self) -> int:
        """Samples of each batch that come from the auxiliary data set."""
        if self.auxiliary is None:
            return 0
        return self.auxiliary.options.samples(self.configuration.batch)

    def sampled(self, cases: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cases that patches can be cut from; a fine stage may have no crop in some."""
        return cases if self.previous is None else self.previous.with_boxes(cases)

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.plan.input_channels(self.configuration)

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.plan.targets.outputs

    @property
    def heads(self) -> HeadCounts:
        """Heads that only training uses."""
        return needed_heads(self.configuration.loss, self.plan.targets)

    @property
    def digest(self) -> str:
        """What a checkpoint must agree with: configuration, targets, cases and their files."""
        return self._digest_with(self.configuration.without_estimates)

    @property
    def digest_with_estimates(self) -> str:
        """The same in checkpoints that older versions wrote."""
        return self._digest_with(self.configuration)

    def _digest_with(self, configuration: Configuration) -> str:
        data = (self.train_cases, self.data_digest, self.previous_digest)
        content: tuple[object, ...] = (self.plan.channels, self.plan.targets, data)
        if any(term.kind == "shape_code" for term in self.configuration.loss.terms):
            content += (self.plan.shapes.model_copy(update={"labels": ()}),)
        if self.auxiliary is not None:
            content += (self.auxiliary.options, self.auxiliary.targets, self.auxiliary.data_digest)
        rest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
        return f"{serial.digest(configuration)}-{rest}"


@dataclass(frozen=True)
class Course:
    """How a run goes: fixed at its start, and kept when it is resumed.

    Attributes:
        kind, recipe: The plan's long or short recipe.
        steps_per_epoch: Steps between two lines of the history.
        total_steps: Length in steps; None where time decides.
        time_s: Length in time; None where steps decide.
    """

    kind: Literal["long", "short"]
    recipe: Recipe
    steps_per_epoch: int
    total_steps: int | None
    time_s: float | None

    def progress(self, step: int, elapsed_s: float) -> float:
        """Return the share of the run that is over."""
        if self.time_s is not None:
            return min(elapsed_s / self.time_s, 1.0)
        return min(step / (self.total_steps or 1), 1.0)

    def schedule_progress(self, step: int, elapsed_s: float) -> float:
        """Return the progress that the learning rate follows: by epoch where the recipe says so.

        A timed run has few epochs: by epoch, its rate would never come down.
        """
        if self.recipe.schedule_per_epoch and self.time_s is None:
            step -= step % self.steps_per_epoch
        return self.progress(step, elapsed_s)

    def is_over(self, step: int, elapsed_s: float) -> bool:
        """Tell whether the run has reached its length; it has at least one step."""
        return step > 0 and self.progress(step, elapsed_s) >= 1.0

    def run_s(self, step_s: float) -> float:
        """Return the seconds of the whole run if a step takes so many."""
        return self.time_s if self.time_s is not None else step_s * (self.total_steps or 0)

    def steps_from(self, step: int) -> range:
        """Return the numbers of the steps that are left; a timed run has no last one."""
        return range(step, ENDLESS if self.total_steps is None else self.total_steps)

    @property
    def validation_steps(self) -> int:
        """Validation batches an epoch."""
        return max(round(self.recipe.validation_share * self.steps_per_epoch), 1)


def plan_course(job: TrainingJob) -> Course:
    """Decide recipe and epoch length of a run that starts now.

    A timed run measures how long a step takes, to know whether it will be short.
    """
    options = job.configuration.optimization
    per_epoch = job.steps_per_epoch or options.steps_per_epoch
    if job.time_s is None:
        total = (job.epochs or options.epochs) * per_epoch
        expected = float(total)
    else:
        total = None
        limit_s = MEASURING_SHARE * job.time_s
        step_s = measure_step_s(job.plan, job.configuration, job.device, limit_s=limit_s)
        expected = job.time_s / step_s
        log.info("Speed: %.2f s a step forward and backward", step_s)
        if job.steps_per_epoch is None:
            per_epoch = max(min(per_epoch, round(expected / EPOCHS_OF_TIMED_RUN)), 1)
    recipe, reason = choose_recipe(options, expected)
    log.info("Recipe: %s", reason)
    kind: Literal["long", "short"] = "short" if recipe is options.short_recipe else "long"
    return Course(
        kind=kind,
        recipe=_started(recipe, job, kind),
        steps_per_epoch=per_epoch,
        total_steps=total,
        time_s=job.time_s,
    )


def resume_course(
    job: TrainingJob,
    *,
    kind: Literal["long", "short"],
    steps_per_epoch: int,
    total_steps: int | None,
    time_s: float | None,
) -> Course:
    """Return the course of a run that goes on: as it was begun, but for a length that is asked."""
    options = job.configuration.optimization
    if job.time_s is not None:
        total_steps, time_s = None, job.time_s
    elif job.epochs is not None:
        total_steps, time_s = job.epochs * steps_per_epoch, None
    return Course(
        kind=kind,
        recipe=_started(options.short_recipe if kind == "short" else options.recipe, job, kind),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        time_s=time_s,
    )


def _started(recipe: Recipe, job: TrainingJob, kind: Literal["long", "short"]) -> Recipe:
    """Return the recipe for the weights that a job starts with."""
    if job.start is None:
        return recipe
    return transfer_recipe(recipe, job.configuration.transfer, is_short=kind == "short")


def measure_step_s(
    plan: Plan, configuration: Configuration, device: torch.device, *, limit_s: float
) -> float:
    """Return the seconds of a training step: forward and backward passes of a fresh network."""
    channels = plan.input_channels(configuration)
    network = build_training_network(
        configuration.network,
        channels=channels,
        outputs=plan.targets.outputs,
        heads=needed_heads(configuration.loss, plan.targets),
    ).to(device)
    shape = (configuration.batch, channels, *configuration.patch)
    layout = choose_layout(network, shape, device)
    return seconds_per_step(network, shape, device, layout, limit_s=limit_s)
