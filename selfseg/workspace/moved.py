"""Data that have moved since they were planned: found again, or missed before they are needed."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import is_data_folder

log = logging.getLogger(__name__)


def lies_elsewhere(folder: DatasetFolder, dataset: Dataset, source: str) -> bool:
    """Tell whether a user gave another data folder than the one a data set was read from.

    Args:
        folder: Of the data set in the workspace.
        dataset: As it was read.
        source: What the user gave: a data folder, or a name, which is none.
    """
    root = Path(source).resolve()
    return is_data_folder(folder, Path(source)) and root != Path(dataset.root).resolve()


def follow(folder: DatasetFolder, source: str) -> Dataset:
    """Return a planned data set as it lies in the folder that a user gave, and write that down.

    For who holds the lock of the plan.

    Raises:
        SelfSegError: The given folder holds other files than were planned, or none of them.
    """
    dataset, root = serial.load(Dataset, folder.dataset), Path(source).resolve()
    if not lies_elsewhere(folder, dataset, source):
        return dataset
    _refuse_others(dataset, root)
    log.info("%s is read from %s from now on, not from %s", dataset.name, root, dataset.root)
    moved = dataset.model_copy(update={"root": str(root)})
    serial.save(moved, folder.dataset)
    return moved


def _refuse_others(dataset: Dataset, root: Path) -> None:
    """Refuse a folder with other files; single ones that are missing are missed when needed."""
    there = [(root / f.path, f.size) for f in _files(dataset.cases) if (root / f.path).is_file()]
    others = [path for path, size in there if size and path.stat().st_size != size]
    if others or not there:
        finding = f"{others[0]}: not of the size of" if others else f"{root}: holds no file of"
        raise SelfSegError(
            f"{finding} what was planned as {dataset.name}, from {dataset.root}",
            remedy=f"Plan these data: 'selfseg plan {shlex.quote(str(root))}'.",
        )


def refuse_missing(
    dataset: Dataset, cases: Collection[str], *, configuration: str, fold: str
) -> None:
    """Refuse to begin where images or references of some cases are not there.

    Raises:
        SelfSegError: Names the first file, and how to give the folder where the data lie now.
    """
    root = Path(dataset.root)
    missing = [
        path
        for file in _files(case for case in dataset.cases if case.id in cases)
        if not (path := root / file.path).is_file()
    ]
    if missing:
        raise SelfSegError(
            f"{missing[0]}: no such file ({len(missing)} are missing that fold {fold} is validated "
            f"on); the data of {dataset.name} are not at {root} as they were",
            remedy="Give the folder where they lie now: 'selfseg train FOLDER "
            f'{configuration} {fold}\' (its dataset.json must say "name": "{dataset.name}").',
        )


def _files(cases: Iterable[Case]) -> Iterator[File]:
    for case in cases:
        yield from case.images
        if case.reference is not None:
            yield case.reference
