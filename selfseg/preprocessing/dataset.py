"""Preprocess all cases of a dataset in parallel; skip what is up to date."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import RecordError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import map_parallel
from selfseg.files import arriving
from selfseg.io.images import Image, label_indices, read_image, read_label_map
from selfseg.io.store import save_array
from selfseg.preprocessing.axes import Flips, working_axes
from selfseg.preprocessing.case import CroppedCase, PreparedCase, crop_case, prepare_cropped
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Shape3

# Goes into the digest that decides what is up to date: raise it when results change.
PREPROCESSING_VERSION = 3


@dataclass(frozen=True)
class CaseFiles:
    """Names of one preprocessed case's files; `record` is written last."""

    folder: Path
    case: str

    @property
    def image(self) -> Path:
        """Float32 (c, Z, Y, X)."""
        return self.folder / f"{self.case}.b2nd"

    @property
    def label(self) -> Path:
        """Int16 (Z, Y, X)."""
        return self.folder / f"{self.case}_label.b2nd"

    @property
    def locations(self) -> Path:
        """Int32 (n, 3), label after label or region after region, then annotated voxels."""
        return self.folder / f"{self.case}_locations.npy"

    @property
    def record(self) -> Path:
        """PreprocessedCase."""
        return self.folder / f"{self.case}.json"


@dataclass(frozen=True)
class Arrays:
    """Training arrays of a dataset: where they are, what is done to images, whom they serve.

    Attributes:
        folder: Where the arrays go.
        options: The plan's preprocessing.
        patch: Training patch; the arrays' chunks are sized for it.
    """

    folder: Path
    options: Preprocessing
    patch: tuple[int, ...]


@dataclass(frozen=True)
class _Task:
    """Arrays of one case that are missing or out of date; `id` is shown while it is made."""

    case: Case
    missing: tuple[Arrays, ...]

    @property
    def id(self) -> str:
        return self.case.id


def preprocess(dataset: Dataset, wanted: Sequence[Arrays], *, workers: int) -> int:
    """Preprocess the cases that are missing or out of date; return how many were made.

    Args:
        dataset: With file digests.
        wanted: Several arrays of the same cases: each case is read once. Those of one folder are
            made once, with chunks for the first patch.
        workers: Parallel processes.
    """
    made: dict[Path, Arrays] = {}
    for arrays in wanted:
        made.setdefault(arrays.folder, arrays)
    with ExitStack() as locks:
        for folder in sorted(made):  # no two wait for each other
            lock = folder.with_name(f".{folder.name}.lock")
            locks.enter_context(waited_for(lock, "prepares these arrays"))
        return _preprocess(dataset, tuple(made.values()), workers)


def _preprocess(dataset: Dataset, wanted: Sequence[Arrays], workers: int) -> int:
    todo = []
    for case in dataset.cases:
        missing = tuple(
            arrays
            for arrays in wanted
            if not _is_up_to_date(
                case, _source_digest(case, dataset.targets, arrays.options), arrays.folder
            )
        )
        if missing:
            todo.append(_Task(case, missing))
    for arrays in {arrays for task in todo for arrays in task.missing}:
        arrays.folder.mkdir(parents=True, exist_ok=True)
    if todo:
        work = partial(_preprocess_case, root=Path(dataset.root), targets=dataset.targets)
        map_parallel(work, todo, workers=workers, label="Preprocessing")
    return len(todo)


def _preprocess_case(task: _Task, *, root: Path, targets: Targets) -> None:
    case = task.case
    image = read_image([root / file.path for file in case.images])
    reference = None
    if case.reference is not None:
        values = read_label_map(root / case.reference.path).array[0]
        reference = label_indices(values, targets.labels, targets.ignore)
    alike: dict[tuple[Shape3, Flips], list[Arrays]] = {}
    for arrays in task.missing:
        alike.setdefault(working_axes(image.orientation, arrays.options), []).append(arrays)
    for group in alike.values():
        _make_alike(case, image, reference, targets, group)


def _make_alike(
    case: Case,
    image: Image,
    reference: NDArray[np.integer] | None,
    targets: Targets,
    group: Sequence[Arrays],
) -> None:
    """Make one case's arrays of one order of axes from one crop, which goes when they are made."""
    cropped = crop_case(case.id, image, reference, group[0].options, targets)
    for arrays in group:
        _make(case, image, cropped, targets, arrays)


def _make(case: Case, image: Image, cropped: CroppedCase, targets: Targets, arrays: Arrays) -> None:
    """Make one case's arrays; nothing of them stays in memory while others are made."""
    source = _source_digest(case, targets, arrays.options)
    prepared = prepare_cropped(
        case.id, image, cropped, arrays.options, targets=targets, source=source
    )
    _write(prepared, CaseFiles(arrays.folder, case.id), arrays.patch)


def _write(prepared: PreparedCase, files: CaseFiles, patch: tuple[int, ...]) -> None:
    files.record.unlink(missing_ok=True)  # never describes arrays that are being replaced
    save_array(prepared.image, files.image, patch=patch)
    if prepared.label is not None:
        save_array(prepared.label, files.label, patch=patch)
        rows = np.concatenate([*prepared.locations, prepared.annotated])
        with arriving(files.locations) as temporary:
            np.save(temporary, rows, allow_pickle=False)
    serial.save(prepared.record, files.record)


def _is_up_to_date(case: Case, source: str, folder: Path) -> bool:
    files = CaseFiles(folder, case.id)
    needed = [files.record, files.image]
    if case.reference is not None:
        needed += [files.label, files.locations]
    if not all(path.is_file() for path in needed):
        return False
    try:
        stored = serial.load(PreprocessedCase, files.record)
    except RecordError:
        return False
    return stored.source == source


def _source_digest(case: Case, targets: Targets, options: Preprocessing) -> str:
    """Return a digest of everything that a preprocessed case depends on."""
    files = (*case.images, *((case.reference,) if case.reference else ()))
    digests = [file.digest for file in files]
    values = [label.value for label in targets.labels]
    shown = (values, targets.members, targets.ignore) if case.reference else ()
    content = (PREPROCESSING_VERSION, digests, shown, serial.digest(options))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
