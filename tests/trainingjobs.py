"""A small training job for tests, and a way to kill it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinymodel import tiny_plan
from trainingdata import make_configuration, make_folder

from selfseg.records.optimization import SGD, AdamW, Optimization, Poly, Recipe, WarmupCosine
from selfseg.training import train as training
from selfseg.training.job import TrainingJob
from selfseg.training.saving import Saver
from selfseg.training.state import TrainState
from selfseg.training.step import train_step
from selfseg.workspace.network import FoldFolder

CPU = torch.device("cpu")
LONG = Recipe(optimizer=SGD(), schedule=Poly())
SHORT = Recipe(
    optimizer=AdamW(),
    schedule=WarmupCosine(),
    schedule_per_epoch=False,
    average_decay=0.9,
    mirror=False,
    validation_share=0.3,
)


class KilledError(Exception):
    """Stands for a kill."""


def make_job(tmp_path: Path, name: str = "run", **changes: object) -> TrainingJob:
    """Return a job of 3 epochs of 4 steps on three boxes, and one to validate on."""
    data = tmp_path / "data"
    ids = tuple(f"case_{i}" for i in range(4))
    if not data.exists():
        make_folder(data, cases=4, shape=(12, 16, 16))
    configuration = make_configuration((8, 8, 8)).model_copy(
        update={
            "optimization": Optimization(recipe=LONG, short_recipe=SHORT, short_below_steps=100)
        }
    )
    job = TrainingJob(
        plan=tiny_plan(configuration),
        configuration=configuration,
        fold="0",
        train_cases=ids[:3],
        validation_cases=ids[3:],
        data=data,
        output=FoldFolder(tmp_path / name),
        epochs=3,
        steps_per_epoch=4,
        seed=5,
        device=CPU,
        workers=0,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def stop_at_step(
    step: int, job: TrainingJob, monkeypatch: pytest.MonkeyPatch, *, save_every: int | None = None
) -> None:
    """Train a job and kill it before its step of that number.

    A checkpoint is due after every so many steps; default: after every epoch.
    """
    made = [0]

    def dying(state: TrainState, *args: object, **options: object) -> torch.Tensor:
        if state.step == step:
            raise KilledError
        value = train_step(state, *args, **options)  # type: ignore[arg-type]
        made[0] = state.step
        return value

    def is_due(_: Saver) -> bool:
        return made[0] > 0 and made[0] % (save_every or job.steps_per_epoch or 1) == 0

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", dying)
        patch.setattr(Saver, "is_due", is_due)
        with pytest.raises(KilledError):
            training.train(job)


def half_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """Return a job that was stopped after its first epoch."""
    job = make_job(tmp_path)
    stop_at_step(5, job, monkeypatch)
    return job
