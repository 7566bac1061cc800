"""What is pretrained, and whether a finished network may stand for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from selfseg.errors import CheckpointError
from selfseg.records import serial
from selfseg.records.plan import Configuration, Decision
from selfseg.records.pretraining import MaskedReconstruction, Pretrained
from selfseg.words import counted
from selfseg.workspace.network import PretrainedFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainingJob:
    """What is pretrained, on what, and where it goes.

    Attributes:
        dataset, channels, configuration: Of the plan.
        options, decision: How.
        cases: Ids of the images.
        images: Digests of their files.
        arrays: Their stored, preprocessed arrays.
        output: Where the network goes.
        steps, time_s: Length in place of the options'; time goes before steps.
        seed: Of weights and batches.
        device: Where to train.
        restart: Forget former progress.
    """

    dataset: str
    channels: tuple[str, ...]
    configuration: Configuration
    options: MaskedReconstruction
    decision: Decision
    cases: tuple[str, ...]
    arrays: tuple[Path, ...]
    output: PretrainedFolder
    steps: int | None = None
    time_s: float | None = None
    seed: int = 0
    device: torch.device
    restart: bool = False
    images: tuple[str, ...] = ()

    @property
    def basis(self) -> str:
        """What a checkpoint must agree with."""
        parts = (self.options, self.configuration.network, self.configuration.preprocessing)
        digests = [serial.digest(part) for part in parts]
        return "-".join(
            [
                *digests,
                str(self.seed),
                *map(str, (self.configuration.patch, self.cases, self.images)),
            ]
        )


def check_finished(made: Pretrained, job: PretrainingJob) -> None:
    """Refuse a finished network that is not what a job would make; say how it was made.

    Raises:
        CheckpointError: It was made with other options; names all that differs.
    """
    differing = []
    if _planned(made.configuration) != _planned(job.configuration):
        differing.append("network, preprocessing or patch of the plan")
    if (made.cases, made.images) != (job.cases, job.images):
        differing.append("the images")
    if made.seed != job.seed:
        differing.append(f"the seed ({made.seed} there, {job.seed} now)")
    there, now = made.options, job.options.model_copy(update={"steps": made.options.steps})
    differing += [
        f"{name} ({getattr(there, name)} there, {getattr(now, name)} now)"
        for name in MaskedReconstruction.model_fields
        if getattr(there, name) != getattr(now, name)
    ]
    if differing:
        raise CheckpointError(
            f"{job.output.path}: pretrained with other options: {'; '.join(differing)}",
            remedy="Pretrain it again with --restart, or give the options that it was made with.",
        )
    log.info("%s is pretrained already (%s)", job.output.path, counted(made.steps, "step"))
    asked = _other_length(made, job)
    if asked:
        log.warning("It was not pretrained for %s; --restart would", asked)


def _planned(configuration: Configuration) -> tuple[object, ...]:
    return configuration.network, configuration.preprocessing, configuration.patch


def _other_length(made: Pretrained, job: PretrainingJob) -> str:
    """Return the length that the options ask for, if it is another; the plan's does not ask."""
    if job.time_s is not None:
        return f"{job.time_s:.0f} s" if round(made.seconds) < round(job.time_s) else ""
    return "" if job.steps in (None, made.steps) else counted(job.steps, "step")
