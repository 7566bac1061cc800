"""Where the previous stage's label map of each case comes from: a fold that never saw the case.

A network segments its own training cases far better than new ones. Given such label maps, the next
stage would learn to trust its input more than it ever may again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.inference.export import label_map_path
from selfseg.inference.model import ALL_CASES, trained_folds, weights_digest
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, Splits
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.workspace import DatasetFolder

SHOWN = 5


@dataclass(frozen=True)
class _Source:
    """A trained fold that may hold label maps, and the groups that it has seen."""

    fold: TrainedFold
    seen_cases: frozenset[str]
    seen_groups: frozenset[str]
    is_current: bool

    def is_clean(self, case: Case) -> bool:
        """Tell whether neither the case nor another of its group was trained on."""
        return case.id not in self.seen_cases and case.group not in self.seen_groups


def out_of_fold_maps(
    folder: DatasetFolder,
    plan: Plan,
    stage: Configuration,
    dataset: Dataset,
    splits: Splits,
    cases: Sequence[str],
    *,
    data_digest: Callable[[Sequence[str]], str],
) -> dict[str, Path]:
    """Return for each case the label map of the fold that held it out.

    Args:
        folder: Workspace of the dataset.
        plan: Its plan.
        stage: Configuration of the previous stage.
        dataset: All cases; groups and file endings are taken from it.
        splits: The folds, to say which are to be trained.
        cases: Ids of the cases whose label maps are wanted.
        data_digest: Returns for training cases what `TrainedFold.data_digest` must be now.

    Raises:
        SelfSegError: A fold is not trained, was trained on a case that it should hold out, with
            another plan or other files, or its label map is gone. All such folds are named, each
            with the command that mends it.
    """
    sources = [
        _source(folder, plan, stage, dataset, name, data_digest)
        for name in trained_folds(folder, stage.name)
        if name != ALL_CASES
    ]
    by_id = {case.id: case for case in dataset.cases}
    found, missing = {}, []
    for case in (by_id[name] for name in cases):
        paths = (
            label_map_path(folder.fold(stage.name, source.fold.fold).validation, case)
            for source in sources
            if source.is_current
            and case.id in source.fold.validation_cases
            and source.is_clean(case)
        )
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            missing.append(case)
        else:
            found[case.id] = path
    if missing:
        raise _explain(folder, plan, stage, splits, {s.fold.fold: s for s in sources}, missing)
    return found


def _source(
    folder: DatasetFolder,
    plan: Plan,
    stage: Configuration,
    dataset: Dataset,
    name: str,
    data_digest: Callable[[Sequence[str]], str],
) -> _Source:
    fold = serial.load(TrainedFold, folder.fold(stage.name, name).description)
    seen = frozenset(fold.train_cases)
    groups = (case.group for case in dataset.cases if case.id in seen)
    return _Source(
        fold=fold.model_copy(update={"fold": name}),
        seen_cases=seen,
        seen_groups=frozenset(group for group in groups if group is not None),
        is_current=fold.plan_digest == weights_digest(plan, stage)
        and fold.data_digest == data_digest(fold.train_cases),
    )


def _explain(
    folder: DatasetFolder,
    plan: Plan,
    stage: Configuration,
    splits: Splits,
    sources: dict[str, _Source],
    missing: Sequence[Case],
) -> SelfSegError:
    """Return an error with every fold that lacks something, and the commands that mend it."""
    complaints, commands = [], []
    for name, cases in _by_fold(splits, missing):
        if name is None:
            complaints.append(f"no fold of {folder.splits} holds out {_names(cases)}")
            commands.append("use folds that hold out every case once")
            continue
        finding, option = _finding(sources.get(name), cases)
        validation = folder.fold(stage.name, name).validation
        complaints.append(f"fold {name} of {stage.name} {finding or f'lost files of {validation}'}")
        command = f"'selfseg train {plan.dataset} {stage.name} {name}{option}'"
        commands.append(command if finding else f"{command} without the folder {validation}")
    listing = "".join(f"\n  • {complaint}" for complaint in complaints)
    return SelfSegError(
        f"{folder.path}: label maps of {stage.name} are missing for {len(missing)} cases; each "
        f"must come from a fold that did not train on its case:{listing}",
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

    Nothing is wrong with a fold whose label maps alone are gone: they are predicted again.
    """
    if source is None:
        return "is not trained", ""
    leaks = [case for case in cases if not source.is_clean(case)]
    if leaks:
        return f"was trained on {_names(leaks)}, or on another case of the group", " --restart"
    if not source.is_current:
        return "was trained with another plan or other files", " --restart"
    strangers = [case for case in cases if case.id not in source.fold.validation_cases]
    if strangers:
        return f"was trained with other folds, without {_names(strangers)}", " --restart"
    return "", ""


def _names(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return ", ".join(case.id for case in cases[:SHOWN]) + more
