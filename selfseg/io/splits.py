"""Folds that the user gives: `splits.json`, or nnU-Net's `splits_final.json`; read and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfseg.errors import DatasetError, RecordError
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Fold, Splits

NAMES = ("splits.json", "splits_final.json")
NAMES_SHOWN = 5


def find_splits(root: Path) -> Path | None:
    """Return the file with the user's folds in a dataset's folder, if there is one."""
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def read_splits(path: Path, dataset: Dataset, *, part: bool = False) -> Splits:
    """Read and check folds: selfseg's own format, or nnU-Net's list of train and val.

    Args:
        path: JSON file.
        dataset: Its cases.
        part: The dataset is a part of its folder, so other cases are passed over, and folds that
            none of its cases are left in.

    Returns:
        The folds, noting where they come from and which cases they leave out.

    Raises:
        DatasetError: Not readable, or see `check_folds`.
        RecordError: selfseg's own format with wrong keys or types.
    """
    folds = _folds(path)
    known, given = {case.id for case in dataset.cases}, len(folds)
    if part:
        folds = tuple(
            Fold(
                train=tuple(case for case in fold.train if case in known),
                validation=tuple(case for case in fold.validation if case in known),
            )
            for fold in folds
        )
        folds = tuple(fold for fold in folds if fold.train and fold.validation) or folds
    check_folds(folds, dataset, path)
    dropped = [f"{given - len(folds)} folds hold out none of these"] if len(folds) < given else []
    notes = [f"taken from {path.name}", *dropped, *_left_out(folds, known)]
    return Splits(folds=folds, note="; ".join(notes))


def read_stored_splits(path: Path) -> Splits:
    """Read the folds of a workspace, which may be the user's own, in selfseg's form.

    Raises:
        RecordError: Not there, or not of this form.
    """
    try:
        return serial.load(Splits, path)
    except RecordError as error:
        raise RecordError(
            error.message,
            remedy='In a workspace only selfseg\'s form holds: {"folds": [{"train": ["CASE", …], '
            '"validation": ["CASE", …]}, …]}. nnU-Net\'s list is read beside the data, as '
            "splits_final.json. Remove this file to let 'selfseg plan' write it again.",
        ) from error


def check_folds(folds: Sequence[Fold], dataset: Dataset, path: Path) -> None:
    """See that folds are a cross-validation of this dataset; `path` is named in the message.

    Raises:
        DatasetError: All complaints: unknown or doubled cases, a case or a group on both sides of
            a fold, empty sides (a single patient need not be validated), cases validated twice.
    """
    complaints = [] if folds else ["no folds; list at least one"]
    group_of = {case.id: case.group for case in dataset.cases}
    for number, fold in enumerate(folds):
        complaints += [f"fold {number}: {finding}" for finding in _findings(fold, group_of)]
    validated = Counter(case for fold in folds for case in set(fold.validation))
    twice = sorted(case for case, times in validated.items() if times > 1)
    if twice:
        complaints.append(
            f"validated in more than one fold: {_shown(twice)}; a case counts once in "
            "cross-validation, keep one"
        )
    if complaints:
        raise DatasetError(
            f"{path}: these folds cannot be used",
            complaints=complaints,
            remedy="Correct the file, or remove it to let the planner decide.",
        )


def _folds(path: Path) -> tuple[Fold, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error})", remedy="Write it as UTF-8 JSON, or remove it."
        ) from error
    if isinstance(content, dict):
        return serial.decode(Splits, text, source=str(path)).folds
    entries: list[Any] = content if isinstance(content, list) else [content]
    wrong = [number for number, entry in enumerate(entries) if not _is_fold(entry)]
    if wrong:
        raise DatasetError(
            f"{path}: entry {wrong[0]} is no fold",
            remedy='Write a list of {"train": ["CASE", …], "val": ["CASE", …]}.',
        )
    return tuple(
        Fold(train=tuple(entry["train"]), validation=tuple(entry["val"])) for entry in entries
    )


def _is_fold(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"train", "val"}
        and all(isinstance(cases, list) for cases in entry.values())
        and all(isinstance(case, str) for cases in entry.values() for case in cases)
    )


def _findings(fold: Fold, group_of: dict[str, str | None]) -> Iterator[str]:
    """Yield what is wrong with one fold."""
    train, validation = set(fold.train), set(fold.validation)
    alone = len({group or case for case, group in group_of.items()}) == 1
    for side, cases in (("train", fold.train), ("validation", fold.validation)):
        if not cases and not (side == "validation" and alone):
            yield f"{side} is empty; put cases there or remove the fold"
        doubled = [case for case, times in Counter(cases).items() if times > 1]
        if doubled:
            yield f"{side} lists {_shown(doubled)} more than once; keep one"
    unknown = sorted((train | validation) - group_of.keys())
    if unknown:
        yield f"{_shown(unknown)}: no such case in the dataset; correct the name"
    if both := sorted(train & validation):
        yield f"{_shown(both)}: in train and validation; keep one"
    groups = {group_of.get(case) for case in train} & {group_of.get(case) for case in validation}
    if split := sorted(group for group in groups if group is not None):
        yield f"group {_shown(split)}: cases in train and in validation; put them on one side"


def _left_out(folds: Sequence[Fold], known: set[str]) -> Iterator[str]:
    """Yield how many cases are in no fold, and how many are only ever trained on."""
    validated = {case for fold in folds for case in fold.validation}
    used = validated | {case for fold in folds for case in fold.train}
    for cases, what in ((known - used, "in no fold"), (used - validated, "never validated")):
        if cases:
            yield f"{len(cases)} case{'s are' if len(cases) > 1 else ' is'} {what}"


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
