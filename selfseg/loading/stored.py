"""One preprocessed case: its files opened, and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfseg.errors import DatasetError
from selfseg.io.store import UNREADABLE, StoredArray, open_array
from selfseg.loading.sampling import Locations
from selfseg.records import serial
from selfseg.records.geometry import PreprocessedCase


@dataclass(frozen=True)
class StoredCase:
    """The arrays of one case: numpy arrays, or files that are read slice by slice.

    Attributes:
        id: Case id.
        image: (c, z, y, x) float32.
        label: (z, y, x) int16, -1 outside the nonzero mask.
        locations: (n, 3) voxels of the labels or regions, one after the other, then annotated ones.
        counts: Rows of each label or region in `locations`.
        annotated: Rows of annotated voxels; 0 where all voxels are annotated.
        previous: (z, y, x) int16, the previous stage's segmentation; None outside a cascade.
        maps: (m, z, y, x) int16, what the loss needs besides the label; None if nothing.
    """

    id: str
    image: StoredArray
    label: StoredArray
    locations: Locations
    counts: tuple[int, ...]
    annotated: int = 0
    previous: StoredArray | None = None
    maps: StoredArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.label.shape)

    @property
    def num_locations(self) -> int:
        """Rows of `locations`."""
        return sum(self.counts) + self.annotated


def read_record(folder: Path, case: str) -> PreprocessedCase:
    """Read how a case of a folder was preprocessed."""
    return serial.load(PreprocessedCase, folder / f"{case}.json")


def read_case(
    folder: Path, case: str, *, previous: Path | None = None, maps: Path | None = None
) -> StoredCase:
    """Open the files of one case; each array stays on disk.

    Args:
        folder: Folder with `CASE.b2nd`, `CASE_label.b2nd`, `CASE_locations.npy`, `CASE.json`.
        case: Its id.
        previous: Folder with `CASE.b2nd` of the previous stage's segmentation, in a cascade.
        maps: Folder with `CASE.b2nd` of maps, where the loss needs any.

    Raises:
        DatasetError: A file is missing, damaged, or of another shape than the others.
    """
    record, locations = read_record(folder, case), read_locations(folder, case)
    stored = StoredCase(
        id=case,
        image=open_array(folder / f"{case}.b2nd"),
        label=open_array(folder / f"{case}_label.b2nd"),
        locations=locations,
        counts=record.num_locations,
        annotated=record.num_annotated,
        previous=None if previous is None else open_array(previous / f"{case}.b2nd"),
        maps=None if maps is None else open_array(maps / f"{case}.b2nd"),
    )
    shapes = {tuple(record.shape), stored.shape, tuple(stored.image.shape[1:])}
    for companion in (stored.previous, stored.maps):
        if companion is not None:
            shapes.add(tuple(companion.shape[-3:]))
    if len(shapes) > 1 or len(locations) != stored.num_locations:
        raise damaged_case(folder, case, f"consists of files that do not fit {case}.json")
    return stored


def damaged_case(folder: Path, case: str, finding: str) -> DatasetError:
    """Return the error of a case whose files cannot be used."""
    return DatasetError(
        f"{folder}: preprocessed case {case} {finding}",
        remedy=f"Delete {case}.json there and run 'selfseg plan' again.",
    )


def read_locations(folder: Path, case: str) -> Locations:
    """Read a case's locations (n, 3), some hundred KiB: mapped, they would keep a file handle.

    Raises:
        DatasetError: The file is missing, damaged, or may not be opened.
    """
    path = folder / f"{case}_locations.npy"
    try:
        locations: Locations = np.load(path, allow_pickle=False)
    except (FileNotFoundError, EOFError, ValueError) as error:
        raise damaged_case(folder, case, f"has no usable class locations ({error})") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error})", remedy=UNREADABLE) from error
    return locations
