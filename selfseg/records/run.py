"""A run over everything: what is trained for how long, and how far it is."""

from __future__ import annotations

from typing import Literal

from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Decision
from selfseg.records.serial import Record

FORWARD_SHARE = 1 / 3  # of a training step is the forward pass
MEASURING_SHARE = 0.01  # of a time limit, spent on measuring the speed of each thing it is for


class Speed(Record):
    """How fast a configuration is on this machine.

    Attributes:
        configuration: Its name.
        previous_stage: Configuration whose folds must all be trained before.
        step_s: Seconds of a training step.
        case_s: Seconds of predicting a case.
    """

    configuration: ConfigurationName
    previous_stage: ConfigurationName | None = None
    step_s: float
    case_s: float


class Training(Record):
    """One fold of one configuration."""

    configuration: ConfigurationName
    fold: str


class Schedule(Record):
    """What a run trains, in this order, and why; without a time limit by the plan's lengths.

    `validation_cases` counts the held-out cases of each training.
    """

    trainings: tuple[Training, ...]
    validation_cases: tuple[int, ...]
    decision: Decision


class RunRecord(Record):
    """run.json: the state of `selfseg run`, kept over interruptions.

    Attributes:
        total_s: Time limit over everything; None without one.
        elapsed_s: Time that it has run, over all restarts.
        speeds: Measured at the start; empty without a limit.
        schedule: What is trained.
        finished: True after the selection.
    """

    schema_version: Literal[1] = 1
    total_s: float | None
    elapsed_s: float
    speeds: tuple[Speed, ...]
    schedule: Schedule
    finished: bool = False
