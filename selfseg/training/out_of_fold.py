"""Where the previous stage's label map of each case comes from: a fold that never saw the case.

A network segments its own training cases far better than new ones. Given such label maps, the next
stage would learn to trust its input more than it ever may again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.inference.export import label_map_path
from selfseg.inference.trained import ALL_CASES, PlannedDataset, trained_folds
from selfseg.records.dataset import Case, Splits
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration
from selfseg.words import counted

SHOWN = 5


@dataclass(frozen=True)
class _Source:
    """A trained fold that may hold label maps, and what it has seen.

    Attributes:
        fold: How it was trained.
        seen: Ids of cases that it was trained on, and of others of their groups.
        fault: Why it no longer fits plan and data; empty if it does.
        is_validated: Its label maps are those of its weights and of the files as they are now.
    """

    fold: TrainedFold
    seen: frozenset[str]
    fault: str
    is_validated: bool

    def is_clean(self, case: Case) -> bool:
        """Tell whether neither the case nor another of its group was trained on."""
        return case.id not in self.seen

    def has(self, case: Case) -> bool:
        """Tell whether the fold may give the label map of a case."""
        held_out = case.id in self.fold.validation_cases
        return not self.fault and self.is_validated and held_out and self.is_clean(case)


def out_of_fold_maps(
    known: PlannedDataset, stage: Configuration, splits: Splits, cases: Sequence[str]
) -> dict[str, Path]:
    """Return for each case the label map of the fold that held it out.

    Args:
        known: Plan and data as they are now.
        stage: Configuration of the previous stage.
        splits: The folds, to say which are to be trained.
        cases: Ids of the cases whose label maps are wanted.

    Raises:
        SelfSegError: A fold is not trained, was trained on a case that it should hold out, with
            another plan or other files, or its label map is gone or of other files. All such folds
            are named, each with the command that mends it.
    """
    names = (name for name in trained_folds(known.folder, stage.name) if name != ALL_CASES)
    sources = [source for name in names if (source := _source(known, stage, name)) is not None]
    by_id = {case.id: case for case in known.dataset.cases}
    found, missing = {}, []
    for case in (by_id[name] for name in cases):
        folds = (source.fold.fold for source in sources if source.has(case))
        paths = (
            label_map_path(known.folder.fold(stage.name, fold).validation, case) for fold in folds
        )
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            missing.append(case)
        else:
            found[case.id] = path
    if missing:
        raise _explain(known, stage, splits, {s.fold.fold: s for s in sources}, missing)
    return found


def _source(known: PlannedDataset, stage: Configuration, name: str) -> _Source | None:
    fold = known.describe(stage, name)
    if fold is None:
        return None
    return _Source(
        fold=fold,
        seen=known.dataset.with_groups(fold.train_cases),
        fault=known.fault(stage, fold),
        is_validated=known.is_validated(stage, fold),
    )


def _explain(
    known: PlannedDataset,
    stage: Configuration,
    splits: Splits,
    sources: dict[str, _Source],
    missing: Sequence[Case],
) -> SelfSegError:
    """Return an error with every fold that lacks something, and the commands that mend it."""
    folder, complaints, commands = known.folder, [], []
    for name, cases in _by_fold(splits, missing):
        if name is None:
            complaints.append(f"no fold of {folder.splits} holds out {_names(cases)}")
            commands.append("use folds that hold out every case once")
            continue
        finding, option = _finding(sources.get(name), cases)
        complaints.append(f"fold {name} of {stage.name} {finding}")
        dataset = shlex.quote(known.plan.dataset)
        commands.append(f"'selfseg train {dataset} {stage.name} {name}{option}'")
    listing = "".join(f"\n  • {complaint}" for complaint in complaints)
    return SelfSegError(
        f"{folder.path}: label maps of {stage.name} are missing for "
        f"{counted(len(missing), 'case')}; each must come from a fold that did not train on its "
        f"case:{listing}",
        remedy=f"First run: {', '.join(commands)}.",
    )


def _by_fold(splits: Splits, missing: Sequence[Case]) -> Iterator[tuple[str | None, list[Case]]]:
    """Yield each fold with the cases that it should hold out, None for cases in no fold."""
    rest = list(missing)
    for number, fold in enumerate(splits.folds):
        held_out = [case for case in rest if case.id in fold.validation]
        rest = [case for case in rest if case not in held_out]
        if held_out:
            yield str(number), held_out
    if rest:
        yield None, rest


def _finding(source: _Source | None, cases: Sequence[Case]) -> tuple[str, str]:
    """Return what is wrong with a fold, and the option that training it needs.

    Without that option a trained fold is not trained again; it predicts what is missing.
    """
    if source is None:
        return "is not trained", ""
    leaks = [case for case in cases if not source.is_clean(case)]
    if leaks:
        return f"was trained on {_names(leaks)}, or on another case of the group", " --restart"
    if source.fault:
        return source.fault, " --restart"
    strangers = [case for case in cases if case.id not in source.fold.validation_cases]
    if strangers:
        return f"was trained with other folds, without {_names(strangers)}", " --restart"
    return "has held-out label maps that are missing or of other files", ""


def _names(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return ", ".join(case.id for case in cases[:SHOWN]) + more
