"""Preprocess all cases of a dataset in parallel; skip what is up to date."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from selfseg.errors import RecordError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import map_parallel
from selfseg.files import arriving
from selfseg.io.images import label_indices, read_image, read_label_map
from selfseg.io.store import save_array
from selfseg.preprocessing.case import PreparedCase, prepare_case
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Preprocessing

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


def preprocess(
    dataset: Dataset,
    options: Preprocessing,
    folder: Path,
    *,
    patch: tuple[int, ...],
    workers: int,
) -> int:
    """Preprocess the cases that are missing or out of date; return how many were made.

    Args:
        dataset: With file digests.
        options: The plan's preprocessing.
        folder: Where the arrays go.
        patch: Training patch; the arrays' chunks are sized for it.
        workers: Parallel processes.
    """
    with waited_for(folder.with_name(f".{folder.name}.lock"), "prepares these arrays"):
        return _preprocess(dataset, options, folder, patch=patch, workers=workers)


def _preprocess(
    dataset: Dataset, options: Preprocessing, folder: Path, *, patch: tuple[int, ...], workers: int
) -> int:
    sources = {case.id: _source_digest(case, dataset.targets, options) for case in dataset.cases}
    todo = [case for case in dataset.cases if not _is_up_to_date(case, sources[case.id], folder)]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        work = partial(
            _preprocess_case,
            root=Path(dataset.root),
            targets=dataset.targets,
            options=options,
            folder=folder,
            patch=patch,
        )
        map_parallel(work, todo, workers=workers, label="Preprocessing")
    return len(todo)


def _preprocess_case(
    case: Case,
    *,
    root: Path,
    targets: Targets,
    options: Preprocessing,
    folder: Path,
    patch: tuple[int, ...],
) -> None:
    image = read_image([root / file.path for file in case.images])
    reference = None
    if case.reference is not None:
        values = read_label_map(root / case.reference.path).array[0]
        reference = label_indices(values, targets.labels, targets.ignore)
    prepared = prepare_case(
        case.id,
        image,
        reference,
        options,
        targets=targets,
        source=_source_digest(case, targets, options),
    )
    _write(prepared, CaseFiles(folder, case.id), patch)


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
