"""Which trained configurations can be compared, on which folds, and how they combine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from pathlib import Path

from selfseg.errors import ModelError
from selfseg.inference.trained import PlannedDataset, model_digest, trained_folds
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Configuration
from selfseg.records.selection import Member, SelectionRules, ValidationTiming
from selfseg.selection.scoring import HeldOut
from selfseg.workspace.dataset import DatasetFolder


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
        unvalidated: Folds whose stored held-out predictions are missing or of other files.
        costs: Effort of predicting a case by configuration: seconds, or voxels.
        notes: What was left out.
    """

    dataset: str
    trained: tuple[Trained, ...]
    folds: tuple[str, ...]
    cases: tuple[HeldOut, ...]
    unvalidated: tuple[TrainedFold, ...]
    costs: dict[str, float]
    notes: tuple[str, ...]

    def combinations(self, sizes: Sequence[int]) -> list[tuple[ConfigurationName, ...]]:
        """Return every set of configurations of these sizes, small ones first."""
        names = [item.name for item in self.trained]
        return [group for size in sizes for group in combinations(names, size)]


def find_trained(known: PlannedDataset) -> tuple[tuple[Trained, ...], tuple[str, ...]]:
    """Return the configurations with finished cross-validation folds, and notes on those left out.

    Fold `all` never counts: it has no held-out cases. What no longer fits plan, data or previous
    stage neither.
    """
    found, notes = [], []
    for configuration in known.plan.configurations:
        folds = {}
        for name in trained_folds(known.folder, configuration.name):
            fold = known.describe(configuration, name)
            if fold is None:
                continue
            fault = known.fault(configuration, fold)
            if not name.isdecimal() or not fold.validation_cases:
                fault = "has no held-out cases"
            if fault:
                notes.append(f"{configuration.name} fold {name} {fault}: left out")
            else:
                folds[name] = fold
        if folds:
            weights = {name: model_digest(known.folder, configuration, name) for name in folds}
            found.append(Trained(configuration, folds, weights))
    return tuple(found), tuple(notes)


def compare(known: PlannedDataset, rules: SelectionRules) -> Comparison:
    """Return what is trained and can be compared on the same held-out cases.

    A configuration that lacks folds is compared, and so are all others, on those it has; one that
    lacks too many is left out.

    Raises:
        ModelError: Nothing is trained, or the folds were made of different cases.
    """
    found, notes = find_trained(known)
    if not found:
        name = (known.plan.proposed or tuple(c.name for c in known.plan.configurations))[0]
        raise ModelError(
            f"{known.folder.models}: no trained fold of a cross-validation to compare"
            + "".join(f"\n  • {note}" for note in notes),
            remedy=f"Train one: 'selfseg train {shlex.quote(known.plan.dataset)} {name} 0', with "
            "--restart if it is named above; or predict without a selection: --config NAME.",
        )
    trained, folds, more = _common_folds(found, rules.fewest_share)
    _check_cases(known, trained, folds)
    cases = _held_out(known, trained, folds)
    unvalidated = tuple(
        item.folds[fold]
        for item in trained
        for fold in folds
        if not known.is_validated(item.configuration, item.folds[fold])
    )
    costs = _costs(known.folder, trained)
    notes = (*notes, *more)
    return Comparison(known.plan.dataset, trained, folds, cases, unvalidated, costs, notes)


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
    found: tuple[Trained, ...], fewest_share: float
) -> tuple[tuple[Trained, ...], tuple[str, ...], list[str]]:
    """Return the configurations that share folds, these folds, and notes on what is not used."""
    notes = []
    most = max(len(item.folds) for item in found)
    few = [item for item in found if len(item.folds) < fewest_share * most]
    notes += [f"{item.name} has only {len(item.folds)} of {most} folds: left out" for item in few]
    found = tuple(item for item in found if item not in few)
    while not (common := set.intersection(*(set(item.folds) for item in found))):
        least = min(found, key=lambda item: len(item.folds))
        found = tuple(item for item in found if item is not least)
        notes.append(f"{least.name} shares no fold with the others: left out")
    folds = tuple(sorted(common, key=int))
    for item in found:
        missing = sorted({f for other in found for f in other.folds} - set(item.folds), key=int)
        if missing:
            notes.append(
                f"compared on fold {', '.join(folds)}: {item.name} lacks fold {', '.join(missing)}"
            )
    return found, folds, notes


def _check_cases(known: PlannedDataset, trained: Sequence[Trained], folds: Sequence[str]) -> None:
    """Refuse folds that do not make one cross-validation: no case twice, none that was trained on.

    Raises:
        ModelError: Names configuration and fold.
    """
    group_of = {case.id: case.group or case.id for case in known.dataset.cases}
    for item in trained:
        held_out: set[str] = set()
        for fold in folds:
            description = item.folds[fold]
            own = set(description.validation_cases)
            groups = {group_of.get(case, case) for case in own}
            seen = {group_of.get(case, case) for case in description.train_cases}
            if own != set(trained[0].folds[fold].validation_cases):
                fault = f"holds out other cases than that of {trained[0].name}"
            elif own & held_out:
                fault = f"holds out {min(own & held_out)}, as another fold does"
            elif groups & seen:
                fault = f"was trained on {min(groups & seen)}, which it should hold out"
            else:
                held_out |= own
                continue
            raise ModelError(
                f"fold {fold} of {item.name} {fault}: the folds have changed between trainings",
                remedy=f"Train it again: 'selfseg train {shlex.quote(known.plan.dataset)} "
                f"{item.name} {fold} --restart'.",
            )


def _held_out(
    known: PlannedDataset, trained: Sequence[Trained], folds: Sequence[str]
) -> tuple[HeldOut, ...]:
    root = Path(known.dataset.root)
    by_id = {case.id: case for case in known.dataset.cases}
    cases = []
    for fold in folds:
        held_out = trained[0].folds[fold].validation_cases
        bases = {
            item.name: known.validation_basis(item.configuration, fold, held_out)
            for item in trained
        }
        for name in held_out:
            case = by_id.get(name)
            if case is None or case.reference is None:
                raise ModelError(
                    f"case {name} of fold {fold} is not in the data set any more",
                    remedy="Plan the data set with this case, or train again with --restart.",
                )
            stored: dict[str, tuple[Path, str]] = {
                item.name: (
                    known.folder.fold(item.name, fold).case_probabilities(name),
                    bases[item.name],
                )
                for item in trained
            }
            reference = root / case.reference.path
            images = tuple(root / file.path for file in case.images)
            cases.append(HeldOut(name, case.group or name, fold, reference, stored, images))
    return tuple(cases)
