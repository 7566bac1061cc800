"""What a new plan does to the folds that are there: some may not fit it any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.locks import is_held
from selfseg.inference.trained import ALL_CASES, PlannedDataset, files_digest, weights_digest
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.plan import Configuration, Plan
from selfseg.workspace.dataset import DatasetFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedState:
    """What the folds of a data set are trained with: plan, data, folds, second data set."""

    plan: Plan
    dataset: Dataset
    splits: Splits
    auxiliary: Dataset | None = None

    def configuration(self, name: str) -> Configuration | None:
        """Return a configuration by name; None if there is none."""
        return next((item for item in self.plan.configurations if item.name == name), None)

    def data(self, item: Configuration, cases: Sequence[str]) -> object:
        """Return what changes with the files that a fold is trained on."""
        borrowed, auxiliary = self.plan.borrowed(item), None
        if borrowed is not None and self.auxiliary is not None:
            ids = [case.id for case in self.auxiliary.cases]
            auxiliary = (self.auxiliary.name, files_digest(self.auxiliary, ids))
        return files_digest(self.dataset, cases), borrowed, auxiliary

    def cases(self, fold: str) -> tuple[str, ...]:
        """Return the cases that a fold is trained on; () if there is no such fold."""
        if fold == ALL_CASES:
            return tuple(case.id for case in self.dataset.cases)
        folds = self.splits.folds
        return folds[int(fold)].train if int(fold) < len(folds) else ()

    def begun(self, item: Configuration, fold: str) -> object:
        """Return what changes where a fold that was begun cannot be gone on with."""
        cases = self.cases(fold)
        plan = (serial.digest(item.without_estimates), self.plan.channels, self.plan.targets)
        return plan, cases, self.data(item, cases)


@dataclass(frozen=True)
class OutdatedFold:
    """A fold that would not fit any more, and whether it is trained or being trained now."""

    configuration: str
    fold: str
    state: Literal["trained", "begun", "running"]

    def __str__(self) -> str:
        return f"{self.configuration} fold {self.fold}"


def newly_outdated(folder: DatasetFolder, state: PlannedState) -> tuple[OutdatedFold, ...]:
    """Return the folds that fit plan and data as they stand, and would not fit another state."""
    try:
        former = PlannedState(
            serial.load(Plan, folder.plan),
            serial.load(Dataset, folder.dataset),
            serial.load(Splits, folder.splits),
            serial.load(Dataset, folder.auxiliary) if folder.auxiliary.is_file() else None,
        )
    except RecordError:  # there is none, or none that a fold could be trained with
        return ()
    return tuple(
        outdated
        for item in former.plan.configurations
        for fold in (*map(str, range(len(former.splits.folds))), ALL_CASES)
        for outdated in _outdated(folder, former, state, item, fold)
    )


def _outdated(
    folder: DatasetFolder,
    former: PlannedState,
    state: PlannedState,
    item: Configuration,
    fold: str,
) -> Iterator[OutdatedFold]:
    """Yield a fold if it fits the former state and not the new one."""
    files, new = folder.fold(item.name, fold), state.configuration(item.name)
    running = is_held(files.lock)
    if not files.weights.is_file():
        if (running or files.checkpoint.is_file()) and (
            new is None or former.begun(item, fold) != state.begun(new, fold)
        ):
            yield OutdatedFold(item.name, fold, "running" if running else "begun")
        return
    known = PlannedDataset(folder, former.plan, former.dataset)
    try:
        trained = known.describe(item, fold)
        if trained is None or known.fault(item, trained):
            return
    except RecordError:  # it did not fit before
        return
    cases = trained.train_cases
    if (
        new is None
        or weights_digest(former.plan, item) != weights_digest(state.plan, new)
        or set(cases) != set(state.cases(fold))
        or former.data(item, cases) != state.data(new, cases)
    ):
        yield OutdatedFold(item.name, fold, "running" if running else "trained")


def refuse_while_training(folder: DatasetFolder, outdated: Sequence[OutdatedFold]) -> None:
    """Refuse a plan that outdates a fold that is trained now, or one of a run that goes on.

    Raises:
        SelfSegError: Names these folds.
    """
    running = [fold for fold in outdated if fold.state == "running"]
    if outdated and is_held(folder.run_lock):
        running = list(outdated)
    if running:
        raise SelfSegError(
            f"{folder.plan}: a process trains with this plan now, and another one would outdate "
            f"{', '.join(map(str, running))}; nothing was written",
            remedy="Wait for it to end, or plan with another --workspace.",
        )


def tell_of_outdated(outdated: Sequence[OutdatedFold], kept: Mapping[Path, Path | None]) -> None:
    """Warn of the folds that a plan has outdated.

    Args:
        outdated: These folds.
        kept: By the place of each file that was written, where the former one is now; None: it is
            the same. Empty where cases are gone, which these files alone do not bring back.
    """
    if not outdated:
        return
    back = [f"{former} in place of {path.name}" for path, former in kept.items() if former]
    use = f" To use them again put {' and '.join(back)}." if back else ""
    if not kept:
        use = " Planned again with the cases of before (--cases) they are valid again."
    log.warning(
        "Outdated now: %s. They can neither be gone on with nor selected.%s To keep both, plan "
        "with another --workspace.",
        ", ".join(f"{fold} ({fold.state})" for fold in outdated),
        use,
    )
