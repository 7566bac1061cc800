"""The segmentation of a previous stage on the grid of the next one, for training and prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.errors import GeometryError, RecordError
from selfseg.execution.processes import map_parallel
from selfseg.io.companions import digest_image
from selfseg.io.images import label_indices, read_label_map
from selfseg.io.store import save_array
from selfseg.preprocessing.axes import to_working
from selfseg.preprocessing.dataset import CaseFiles
from selfseg.preprocessing.resample import resample_labels, separate_axis
from selfseg.records import serial
from selfseg.records.dataset import Targets
from selfseg.records.geometry import CompanionRecord, PreprocessedCase
from selfseg.records.preprocessing import Preprocessing

# Goes into the digest that decides what is up to date: raise it when results change.
PREVIOUS_STAGE_VERSION = 1


@dataclass(frozen=True)
class CompanionFiles:
    """An array beside a preprocessed case's own: its file, and a record that is written last."""

    folder: Path
    id: str

    @property
    def array(self) -> Path:
        """Int16 (…, Z, Y, X)."""
        return self.folder / f"{self.id}.b2nd"

    @property
    def record(self) -> Path:
        """CompanionRecord."""
        return self.folder / f"{self.id}.json"

    def is_up_to_date(self, source: str) -> bool:
        """Tell whether the array was made from what this digest stands for."""
        if not (self.record.is_file() and self.array.is_file()):
            return False
        try:
            return serial.load(CompanionRecord, self.record).source == source
        except RecordError:
            return False

    def write(self, array: npt.NDArray[np.int16], source: str, *, patch: tuple[int, ...]) -> None:
        """Write the array, then its record."""
        self.record.unlink(missing_ok=True)  # never describes an array that is being replaced
        save_array(array, self.array, patch=patch)
        serial.save(CompanionRecord(id=self.id, source=source), self.record)


def read_previous(
    path: Path, record: PreprocessedCase, options: Preprocessing, targets: Targets
) -> npt.NDArray[np.int16]:
    """Read a predicted label map and bring it to a case's working grid, as its reference was.

    Args:
        path: Label map on the image's own grid, written by the previous stage.
        record: How the image was preprocessed for the next stage.
        options: The next stage's preprocessing.
        targets: What the label map shows.

    Returns:
        Label indices (Z, Y, X), 0 background.

    Raises:
        ImageError: The label map cannot be read.
        DatasetError: It has values of no label.
        GeometryError: It has another size than the image.
    """
    found = read_label_map(path)
    if found.native.shape != record.native.shape:
        raise GeometryError(
            f"{path}: {found.native.shape} voxels for an image of {record.native.shape}",
            remedy="Predict the previous stage again: its label map belongs to another image.",
        )
    indices = label_indices(found.array[0], targets.labels)
    working = to_working(indices, record.axes, record.flips)
    cropped = working[record.crop.slices].astype(np.int16, order="C")
    axis = separate_axis(
        record.spacing_before_mm,
        record.spacing_mm,
        options.resampling,
        is_2d=record.native.is_2d,
    )
    return resample_labels(cropped, record.shape, axis, options.resampling)


def preprocess_previous(
    maps: Mapping[str, Path],
    arrays: Path,
    folder: Path,
    *,
    options: Preprocessing,
    targets: Targets,
    patch: tuple[int, ...],
    workers: int,
) -> int:
    """Bring label maps to the working grid where that is not done yet; return how many were made.

    Args:
        maps: For each case the label map that the previous stage predicted.
        arrays: Folder of the preprocessed cases.
        folder: Where the label arrays go.
        options: The preprocessing of `arrays`.
        targets: What the label maps show.
        patch: Training patch; the arrays' chunks are sized for it.
        workers: Parallel processes.
    """
    work = partial(
        _bring,
        maps=maps,
        arrays=arrays,
        options=options,
        targets=targets,
        patch=patch,
    )
    cases = [CompanionFiles(folder, case) for case in maps]
    return sum(map_parallel(work, cases, workers=workers, label="Previous stage"))


def _bring(
    files: CompanionFiles,
    *,
    maps: Mapping[str, Path],
    arrays: Path,
    options: Preprocessing,
    targets: Targets,
    patch: tuple[int, ...],
) -> bool:
    """Bring one case, unless it is up to date; tell whether it was not."""
    record = serial.load(PreprocessedCase, CaseFiles(arrays, files.id).record)
    source = _source_digest(maps[files.id], record, targets)
    if files.is_up_to_date(source):
        return False
    files.write(read_previous(maps[files.id], record, options, targets), source, patch=patch)
    return True


def _source_digest(path: Path, record: PreprocessedCase, targets: Targets) -> str:
    """Return a digest of label map, grid and labels."""
    content = (PREVIOUS_STAGE_VERSION, [digest_image(path)], record.source, serial.digest(targets))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
