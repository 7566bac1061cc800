"""How far the trainings of a workspace are: done, running, interrupted, outdated, missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from shlex import quote
from typing import Literal

from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.locks import is_held
from selfseg.inference.find import find_models
from selfseg.inference.trained import ALL_CASES, PlannedDataset, changed_members
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.records.run import RunRecord
from selfseg.records.selection import Selection
from selfseg.words import counted
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import dataset_folder, planned_folder

State = Literal["done", "running", "interrupted", "outdated", "missing"]


@dataclass(frozen=True)
class FoldStatus:
    """One fold of one configuration.

    Attributes:
        configuration, fold, proposed: Which.
        state: A process trains it now; it can be resumed; it is trained but does not fit plan, data
            or previous stage any more; …
        steps: Trained so far, as of the last checkpoint.
        share: Of its length; None where it has no checkpoint.
        left_s: Estimated seconds, while it is running.
        dice: Mean of its held-out cases.
        start: Options of the model that it was begun with; '' for random weights.
    """

    configuration: str
    fold: str
    proposed: bool
    state: State
    steps: int | None = None
    share: float | None = None
    left_s: float | None = None
    dice: float | None = None
    start: str = ""


@dataclass(frozen=True)
class DatasetStatus:
    """All folds of a planned dataset; `note` is what to know before the next command."""

    name: str
    summary: str
    folds: tuple[FoldStatus, ...]
    next_command: str
    note: str = ""


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
    if folder.is_model_alone:
        return _model_status(folder, plan)
    known = PlannedDataset(folder, plan, serial.load(Dataset, folder.dataset))
    splits = serial.load(Splits, folder.splits)
    names = [str(number) for number in range(len(splits.folds))]
    folds = tuple(
        _fold_status(known, item, fold)
        for item in plan.configurations
        for fold in (*names, ALL_CASES)
        if fold != ALL_CASES or folder.fold(item.name, fold).path.exists()
    )
    run = _run(folder)
    chosen = _selected(known, folds)
    summary = _summary(folder, folds, run, chosen)
    command = _next(known, folds, run, chosen)
    return DatasetStatus(plan.dataset, summary, folds, command, _way_back(known, folds))


def _model_status(folder: DatasetFolder, plan: Plan) -> DatasetStatus:
    """Return the status of a model from elsewhere: nothing is left to be done."""
    folds = tuple(
        FoldStatus(
            configuration=item.configuration.name,
            fold=fold,
            proposed=True,
            state="done",
            steps=serial.load(
                TrainedFold, folder.fold(item.configuration.name, fold).description
            ).steps,
        )
        for item in find_models(folder.path)
        for fold in item.folds
    )
    return DatasetStatus(
        plan.dataset, f"a model from elsewhere, {counted(len(folds), 'fold')}", folds, ""
    )


def _fold_status(known: PlannedDataset, item: Configuration, fold: str) -> FoldStatus:
    files = known.folder.fold(item.name, fold)
    proposed = not known.plan.proposed or item.name in known.plan.proposed
    state: State = "missing"
    steps, share, left_s, dice, start = None, None, None, None, None
    trained = known.describe(item, fold)
    if trained is not None:
        state, steps = "outdated" if known.fault(item, trained) else "done", trained.steps
        start = trained.start
        if files.scores.is_file():
            dice = serial.load(MetricsTable, files.scores).mean.dice
    elif files.checkpoint.is_file():
        from selfseg.training.checkpoints import peek

        state, position = "interrupted", peek(files)
        if position is not None:
            steps, share, start = position.step, position.share, position.start
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
        start="" if start is None else start.options,
    )


def _way_back(known: PlannedDataset, folds: Sequence[FoldStatus]) -> str:
    """Name the former plan or folds that outdated folds were trained with; '' if there are none."""
    outdated = [fold for fold in folds if fold.state == "outdated"]
    folder = known.folder
    files = product((folder.plan, *folder.former_plans), (folder.splits, *folder.former_splits))
    for paths in files if outdated else ():
        try:
            plan, splits = serial.load(Plan, paths[0]), serial.load(Splits, paths[1])
            former = PlannedDataset(folder, plan, known.dataset, splits)
        except RecordError:
            continue
        fitting = _fitting(former, outdated)
        if fitting:
            pairs = zip(paths, (folder.plan, folder.splits), strict=True)
            exchanged = [f"{path} with {now.name}" for path, now in pairs if path != now]
            return (
                f"{', '.join(fitting)} {'fits' if len(fitting) == 1 else 'fit'} what stood there "
                f"before: exchange {' and '.join(exchanged)} to use what is trained, which "
                "--restart erases."
            )
    return ""


def _fitting(former: PlannedDataset, outdated: Sequence[FoldStatus]) -> list[str]:
    """Return the outdated folds that fit a former plan with former folds."""
    return [
        f"{fold.configuration} fold {fold.fold}"
        for fold in outdated
        for item in former.plan.configurations
        if item.name == fold.configuration
        and (trained := former.describe(item, fold.fold)) is not None
        and not former.fault(item, trained)
    ]


def _run(folder: DatasetFolder) -> RunRecord | None:
    try:
        return serial.load(RunRecord, folder.run) if folder.run.is_file() else None
    except RecordError:
        return None


def _selected(known: PlannedDataset, folds: Sequence[FoldStatus]) -> Literal["yes", "before", "no"]:
    """Tell whether there is a selection, and whether it was made of what is trained now."""
    if not known.folder.selection.is_file():
        return "no"
    selection = serial.load(Selection, known.folder.selection)
    compared = {name for item in selection.candidates for name in item.members}
    done = {f.configuration for f in folds if f.state == "done" and f.fold != ALL_CASES}
    fits = not changed_members(known.folder, known.plan, selection)
    more = any(
        fold.state == "done" and fold.configuration == member.configuration
        and fold.fold not in (*member.folds, ALL_CASES)
        for member in selection.members
        for fold in folds
    )  # fmt: skip
    return "yes" if fits and done <= compared and not more else "before"


def _summary(
    folder: DatasetFolder, folds: Sequence[FoldStatus], run: RunRecord | None, chosen: str
) -> str:
    done = sum(fold.state == "done" for fold in folds)
    parts = [f"{done} of {len(folds)} folds trained"]
    words = {"yes": "selected", "before": "selected before the last training"}
    parts.append(words.get(chosen, "nothing selected"))
    if run is not None:
        state = "finished" if run.finished else "running" if is_held(folder.run_lock) else "stopped"
        limit = "" if run.total_s is None else f" of {run.total_s / 60:.1f}"
        parts.append(f"run {state} after {run.elapsed_s / 60:.1f}{limit} minutes")
    return ", ".join(parts)


def _next(
    known: PlannedDataset, folds: Sequence[FoldStatus], run: RunRecord | None, chosen: str
) -> str:
    """Return the command that would go on; empty if there is nothing to do, or it is being done."""
    name = known.plan.dataset
    if any(fold.state == "running" for fold in folds) or is_held(known.folder.run_lock):
        return ""
    outdated = next((fold for fold in folds if fold.state == "outdated"), None)
    if outdated is not None:
        return f"{_train(name, outdated)} --restart"
    if run is not None and not run.finished:
        limit = "" if run.total_s is None else f" --time {run.total_s:.0f}s"
        return f"selfseg run {quote(name)}{limit}"
    if run is None or run.total_s is None:  # a limited run has left out what it did on purpose
        order = known.plan.proposed or tuple(item.name for item in known.plan.configurations)
        for state in ("interrupted", "missing"):
            for configuration in order:
                for fold in folds:
                    if fold.configuration == configuration and fold.state == state:
                        return _train(name, fold)
    return "" if chosen == "yes" else f"selfseg select {quote(name)}"


def _train(name: str, fold: FoldStatus) -> str:
    """Return the command that trains a fold, from the model that it was begun with."""
    start = f" {fold.start}" if fold.start else ""
    return f"selfseg train {quote(name)} {quote(fold.configuration)} {fold.fold}{start}"
