"""What is trained in a workspace, and whether it still fits plan, data and previous stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfseg.errors import RecordError
from selfseg.files import DIGITS, file_digest
from selfseg.io.splits import read_stored_splits
from selfseg.records import serial
from selfseg.records.crop import Crop
from selfseg.records.dataset import Dataset, Splits, Targets
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.network import Network
from selfseg.records.plan import Configuration, Plan
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.selection import Selection
from selfseg.workspace.dataset import DatasetFolder

ALL_CASES = "all"


class WeightsBasis(serial.GrownRecord):
    """What weights depend on; all else in a plan may change after training."""

    later: ClassVar[frozenset[str]] = frozenset({"crop"})

    channels: tuple[str, ...]
    targets: Targets
    preprocessing: Preprocessing
    network: Network
    crop: Crop | None = None


def trained_folds(dataset: DatasetFolder, configuration: str) -> tuple[str, ...]:
    """Return the finished folds of a configuration, numbers first."""
    pattern = dataset.fold(configuration, "*").path
    prefix = pattern.name.removesuffix("*")
    names = (path.name.removeprefix(prefix) for path in pattern.parent.glob(pattern.name))
    finished = [name for name in names if dataset.fold(configuration, name).weights.is_file()]
    return tuple(sorted(finished, key=lambda name: (not name.isdecimal(), len(name), name)))


def weights_digest(plan: Plan, configuration: Configuration) -> str:
    """Return a digest of the decisions that weights depend on (`TrainedFold.plan_digest`)."""
    return serial.digest(
        WeightsBasis(
            channels=plan.channels,
            targets=plan.targets,
            preprocessing=configuration.preprocessing,
            network=configuration.network,
            crop=configuration.crop,
        )
    )


def files_digest(dataset: Dataset, cases: Sequence[str]) -> str:
    """Return a digest of what is read of some cases: their files and the values of the labels."""
    wanted = set(cases)
    content = [
        (case.id, [file.digest for file in (*case.images, case.reference) if file is not None])
        for case in dataset.cases
        if case.id in wanted
    ]
    return _digest((dataset.targets, content))


def previous_digest(folder: DatasetFolder, configuration: Configuration) -> str:
    """Return a digest of the weights that a cascade's further input comes from; else ''."""
    stage = configuration.previous_stage
    if stage is None:
        return ""
    folds = [name for name in trained_folds(folder, stage) if name != ALL_CASES]
    return _digest([(name, file_digest(folder.fold(stage, name).weights)) for name in folds])


def model_digest(folder: DatasetFolder, configuration: Configuration, fold: str) -> str:
    """Return a digest of all weights that a fold predicts with; '' if it is not trained."""
    own = file_digest(folder.fold(configuration.name, fold).weights)
    if not own or configuration.previous_stage is None:
        return own
    return _digest((own, previous_digest(folder, configuration)))


def changed_members(folder: DatasetFolder, plan: Plan, selection: Selection) -> tuple[str, ...]:
    """Return the folds of a selection whose weights have changed or gone since it was made."""
    known = {item.name: item for item in plan.configurations}
    return tuple(
        f"{member.configuration} fold {fold}"
        for member in selection.members
        for fold, digest in zip(member.folds, member.weights, strict=True)
        if member.configuration not in known
        or model_digest(folder, known[member.configuration], fold) != digest
    )


@dataclass(frozen=True)
class PlannedDataset:
    """What folds are judged against: the plan and the data as they are now.

    `splits` are those of the folder, if not given.
    """

    folder: DatasetFolder
    plan: Plan
    dataset: Dataset
    splits: Splits | None = None

    def describe(self, configuration: Configuration, fold: str) -> TrainedFold | None:
        """Return how a finished fold was trained; None if it is not finished."""
        files = self.folder.fold(configuration.name, fold)
        if not files.weights.is_file():
            return None
        return serial.load(TrainedFold, files.description).model_copy(update={"fold": fold})

    def data_digest(self, configuration: Configuration, cases: Sequence[str]) -> str:
        """Return a digest of what training reads: some cases, and an auxiliary data set."""
        own = files_digest(self.dataset, cases)
        borrowed = self.plan.borrowed(configuration)
        if borrowed is None:
            return own
        auxiliary = serial.load(Dataset, self.folder.auxiliary)
        theirs = files_digest(auxiliary, [case.id for case in auxiliary.cases])
        return _digest((own, theirs, auxiliary.name))

    def train_cases(self, fold: str) -> tuple[str, ...] | None:
        """Return the cases that a fold is trained on by the folds there are now.

        None where no folds are stored, as beside a model from elsewhere; () for a fold too many.
        """
        if fold == ALL_CASES:
            return tuple(case.id for case in self.dataset.cases)
        if self.splits is None and not self.folder.splits.is_file():
            return None
        folds = (self.splits or read_stored_splits(self.folder.splits)).folds
        known = fold.isdecimal() and int(fold) < len(folds)
        return folds[int(fold)].train if known else ()

    def fault(self, configuration: Configuration, trained: TrainedFold) -> str:
        """Return why a fold no longer fits plan, folds, data or previous stage; '' if it does."""
        if trained.plan_digest != weights_digest(self.plan, configuration):
            return "was trained with another plan"
        expected = self.train_cases(trained.fold)
        if expected is not None and set(expected) != set(trained.train_cases):
            return "was trained on other cases than its fold has now"
        if trained.data_digest != self.data_digest(configuration, trained.train_cases):
            return "was trained on other files"
        if trained.previous_digest != previous_digest(self.folder, configuration):
            return f"was trained after another {configuration.previous_stage}"
        return ""

    def validation_basis(
        self, configuration: Configuration, fold: str, cases: Sequence[str]
    ) -> str:
        """Return a digest of what held-out predictions and scores depend on."""
        weights = model_digest(self.folder, configuration, fold)
        return _digest((weights, files_digest(self.dataset, cases)))

    def is_validated(self, configuration: Configuration, trained: TrainedFold) -> bool:
        """Tell whether the stored held-out predictions are those of these weights and files."""
        cases = trained.validation_cases
        files = self.folder.fold(configuration.name, trained.fold)
        if not cases:
            return True
        if not files.scores.is_file():
            return False
        try:
            basis = serial.load(MetricsTable, files.scores).basis
        except RecordError:
            return False
        if basis != self.validation_basis(configuration, trained.fold, cases):
            return False
        return all(files.case_probabilities(case).is_file() for case in cases)


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:DIGITS]
