"""How far the trainings of a workspace are: done, running, interrupted, missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.locks import is_held
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.records.run import RunRecord
from selfseg.workspace import DatasetFolder, FoldFolder, dataset_folder, planned_folder

State = Literal["done", "running", "interrupted", "missing"]
ALL_CASES = "all"


@dataclass(frozen=True)
class FoldStatus:
    """One fold of one configuration.

    Attributes:
        configuration, fold, proposed: Which.
        state: A process trains it now; it can be resumed; …
        steps: Trained so far, as of the last checkpoint.
        share: Of its length; None where it has no checkpoint.
        left_s: Estimated seconds, while it is running.
        dice: Mean of its held-out cases.
    """

    configuration: str
    fold: str
    proposed: bool
    state: State
    steps: int | None = None
    share: float | None = None
    left_s: float | None = None
    dice: float | None = None


@dataclass(frozen=True)
class DatasetStatus:
    """All folds of a planned dataset."""

    name: str
    summary: str
    folds: tuple[FoldStatus, ...]
    next_command: str


def read_status(dataset: str | None, workspace: Path) -> tuple[DatasetStatus, ...]:
    """Return the status of one planned dataset, or of all in a workspace.

    Raises:
        SelfSegError: There is none.
    """
    if dataset is not None:
        return (_status(planned_folder(workspace, dataset)),)
    pattern = dataset_folder(Path(), "*").plan
    found = sorted(path.parent for path in workspace.glob(str(pattern)))
    if not found:
        raise SelfSegError(
            f"{workspace}: no planned data set", remedy="Run 'selfseg plan DATASET' first."
        )
    return tuple(_status(DatasetFolder(path)) for path in found)


def _status(folder: DatasetFolder) -> DatasetStatus:
    plan = serial.load(Plan, folder.plan)
    splits = serial.load(Splits, folder.splits)
    names = [str(number) for number in range(len(splits.folds))]
    folds = tuple(
        _fold_status(plan, item, fold, folder.fold(item.name, fold))
        for item in plan.configurations
        for fold in (*names, ALL_CASES)
        if fold != ALL_CASES or folder.fold(item.name, fold).path.exists()
    )
    return DatasetStatus(plan.dataset, _summary(folder, folds), folds, _next(plan, folder, folds))


def _fold_status(plan: Plan, item: Configuration, fold: str, files: FoldFolder) -> FoldStatus:
    proposed = not plan.proposed or item.name in plan.proposed
    state: State = "missing"
    steps, share, left_s, dice = None, None, None, None
    if files.weights.is_file():
        state, steps = "done", serial.load(TrainedFold, files.description).steps
        if files.scores.is_file():
            dice = serial.load(MetricsTable, files.scores).mean.dice
    elif files.checkpoint.is_file():
        from selfseg.training.checkpoints import peek

        state, position = "interrupted", peek(files)
        if position is not None:
            steps, share = position.step, position.share
            left_s = position.elapsed_s * (1 - share) / share if share else None
    if is_held(files.lock):
        state = "running"
    return FoldStatus(
        configuration=item.name,
        fold=fold,
        proposed=proposed,
        state=state,
        steps=steps,
        share=share,
        left_s=left_s if state == "running" else None,
        dice=dice,
    )


def _summary(folder: DatasetFolder, folds: tuple[FoldStatus, ...]) -> str:
    done = sum(fold.state == "done" for fold in folds)
    parts = [f"{done} of {len(folds)} folds trained"]
    parts.append("selected" if folder.selection.is_file() else "nothing selected")
    if folder.run.is_file():
        try:
            run = serial.load(RunRecord, folder.run)
        except RecordError:
            return ", ".join(parts)
        state = "finished" if run.finished else "running" if is_held(folder.run_lock) else "stopped"
        limit = "" if run.total_s is None else f" of {run.total_s / 60:.1f}"
        parts.append(f"run {state} after {run.elapsed_s / 60:.1f}{limit} minutes")
    return ", ".join(parts)


def _next(plan: Plan, folder: DatasetFolder, folds: tuple[FoldStatus, ...]) -> str:
    """Return the command that would go on."""
    if any(fold.state == "running" for fold in folds):
        return ""
    order = plan.proposed or tuple(item.name for item in plan.configurations)
    for state in ("interrupted", "missing"):
        for name in order:
            for fold in folds:
                if fold.configuration == name and fold.state == state:
                    return f"selfseg train {plan.dataset} {name} {fold.fold}"
    return "" if folder.selection.is_file() else f"selfseg select {plan.dataset}"
