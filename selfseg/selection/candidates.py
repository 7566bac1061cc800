"""Which trained configurations can be compared, on which folds, and how they combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from pathlib import Path

from selfseg.errors import ModelError
from selfseg.inference.model import trained_folds, weights_digest, weights_file_digest
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, ConfigurationName, Plan
from selfseg.records.selection import Member, ValidationTiming
from selfseg.selection.scoring import HeldOut
from selfseg.workspace import DatasetFolder


@dataclass(frozen=True)
class Trained:
    """A configuration with its cross-validation folds: how each was trained, and its weights."""

    configuration: Configuration
    folds: dict[str, TrainedFold]
    weights: dict[str, str]

    @property
    def name(self) -> ConfigurationName:
        """Name of the configuration."""
        return self.configuration.name

    @property
    def member(self) -> Member:
        """All folds of the configuration as a member of an ensemble."""
        return Member(
            configuration=self.name,
            folds=tuple(self.folds),
            weights=tuple(self.weights[fold] for fold in self.folds),
        )


@dataclass(frozen=True)
class Comparison:
    """What can be compared: configurations, folds that all of them have, held-out cases.

    Attributes:
        dataset: Name of the data set.
        trained, folds, cases: What is compared on what.
        costs: Effort of predicting a case by configuration: seconds, or voxels.
        notes: What was left out.
    """

    dataset: str
    trained: tuple[Trained, ...]
    folds: tuple[str, ...]
    cases: tuple[HeldOut, ...]
    costs: dict[str, float]
    notes: tuple[str, ...]

    def combinations(self, sizes: Sequence[int]) -> list[tuple[ConfigurationName, ...]]:
        """Return every set of configurations of these sizes, small ones first."""
        names = [item.name for item in self.trained]
        return [group for size in sizes for group in combinations(names, size)]


def find_trained(folder: DatasetFolder, plan: Plan) -> tuple[tuple[Trained, ...], tuple[str, ...]]:
    """Return the configurations with finished cross-validation folds, and notes on those left out.

    Fold `all` never counts: it has no held-out cases. What was trained with another plan neither.
    """
    found, notes = [], []
    for configuration in plan.configurations:
        folds = {}
        for name in trained_folds(folder, configuration.name):
            files = folder.fold(configuration.name, name)
            if not name.isdecimal():
                notes.append(f"{configuration.name} fold {name} has no held-out cases: left out")
                continue
            description = serial.load(TrainedFold, files.description)
            if description.plan_digest != weights_digest(plan, configuration):
                notes.append(f"{configuration.name} fold {name}: trained with another plan")
            elif description.validation_cases:
                folds[name] = description
        if folds:
            weights = {
                name: weights_file_digest(folder.fold(configuration.name, name).weights)
                for name in folds
            }
            found.append(Trained(configuration, folds, weights))
    return tuple(found), tuple(notes)


def compare(folder: DatasetFolder, plan: Plan, dataset: Dataset) -> Comparison:
    """Return what is trained and can be compared on the same held-out cases.

    A configuration that lacks folds is compared, and so are all others, on those it has.

    Raises:
        ModelError: Nothing is trained, or the folds were made of different cases.
    """
    found, notes = find_trained(folder, plan)
    if not found:
        raise ModelError(
            f"{folder.models}: no trained cross-validation fold"
            + "".join(f"\n  • {note}" for note in notes),
            remedy=f"Train one first: 'selfseg train {plan.dataset} {plan.configurations[-1].name} "
            "0'.",
        )
    trained, folds, more = _common_folds(found)
    _check_same_cases(trained, folds)
    cases = _held_out(folder, trained, folds, dataset)
    costs = _costs(folder, trained)
    return Comparison(plan.dataset, trained, folds, cases, costs, (*notes, *more))


def _costs(folder: DatasetFolder, trained: Sequence[Trained]) -> dict[str, float]:
    """Return the effort of predicting a case by configuration: seconds if all were measured.

    Otherwise the voxels of the median case; either times the number of folds.
    """
    seconds = {item.name: _seconds_per_case(folder, item) for item in trained}
    costs: dict[str, float] = {}
    for item in trained:
        measured = [seconds[other.name] for other in trained]
        voxels = prod(item.configuration.median_shape)
        own = seconds[item.name]
        one = voxels if own is None or None in measured else own
        costs[item.name] = one * len(item.folds)
    for item in trained:  # a cascade pays for its previous stage too
        costs[item.name] += costs.get(item.configuration.previous_stage or "", 0.0)
    return costs


def _seconds_per_case(folder: DatasetFolder, item: Trained) -> float | None:
    paths = [folder.fold(item.name, fold).timing for fold in item.folds]
    timings = [serial.load(ValidationTiming, path) for path in paths if path.is_file()]
    cases = sum(timing.cases for timing in timings)
    return sum(timing.seconds for timing in timings) / cases if cases else None


def _common_folds(
    found: tuple[Trained, ...],
) -> tuple[tuple[Trained, ...], tuple[str, ...], list[str]]:
    """Return the configurations that share folds, these folds, and notes on what is not used."""
    notes = []
    while not (common := set.intersection(*(set(item.folds) for item in found))):
        least = min(found, key=lambda item: len(item.folds))
        found = tuple(item for item in found if item is not least)
        notes.append(f"{least.name} shares no fold with the others: left out")
    folds = tuple(sorted(common, key=int))
    for item in found:
        beyond = [fold for fold in item.folds if fold not in common]
        if beyond:
            lacking = [other.name for other in found if not set(beyond) <= set(other.folds)]
            notes.append(
                f"compared on fold {', '.join(folds)}: {', '.join(lacking)} lacks fold "
                f"{', '.join(beyond)} of {item.name}"
            )
    return found, folds, notes


def _check_same_cases(trained: Sequence[Trained], folds: Sequence[str]) -> None:
    for fold in folds:
        first, *others = trained
        for other in others:
            if set(first.folds[fold].validation_cases) != set(other.folds[fold].validation_cases):
                raise ModelError(
                    f"fold {fold} of {first.name} and of {other.name} hold out different cases: "
                    "the folds have changed between these trainings",
                    remedy="Train one of them again with --restart.",
                )


def _held_out(
    folder: DatasetFolder, trained: Sequence[Trained], folds: Sequence[str], dataset: Dataset
) -> tuple[HeldOut, ...]:
    root = Path(dataset.root)
    known = {case.id: case for case in dataset.cases}
    cases = []
    for fold in folds:
        for name in trained[0].folds[fold].validation_cases:
            case = known.get(name)
            if case is None or case.reference is None:
                raise ModelError(
                    f"case {name} of fold {fold} is not in the data set any more",
                    remedy="Plan the data set with this case, or train again with --restart.",
                )
            stored: dict[str, tuple[Path, str]] = {
                item.name: (
                    folder.fold(item.name, fold).case_probabilities(name),
                    item.weights[fold],
                )
                for item in trained
            }
            reference = root / case.reference.path
            cases.append(HeldOut(name, case.group or name, fold, reference, stored))
    return tuple(cases)
