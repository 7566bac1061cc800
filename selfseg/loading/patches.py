"""Preprocessed cases of a folder, opened lazily or held in memory, and patches cut from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfseg.errors import DatasetError
from selfseg.execution.resources import free_memory_gib
from selfseg.io.store import StoredArray, open_array
from selfseg.loading.sampling import Corner, Locations
from selfseg.records import serial
from selfseg.records.geometry import PreprocessedCase

# Share of the free memory that decompressed cases may fill; the rest is for training.
MEMORY_SHARE = 0.25
PAD_IMAGE = 0
PAD_LABEL = -1


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
    """

    id: str
    image: StoredArray
    label: StoredArray
    locations: Locations
    counts: tuple[int, ...]
    annotated: int = 0
    previous: StoredArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.label.shape)

    @property
    def num_locations(self) -> int:
        """Rows of `locations`."""
        return sum(self.counts) + self.annotated


@dataclass(frozen=True)
class PreviousStage:
    """Further input of a cascade: segmentations of the previous stage on the working grid.

    Attributes:
        folder: Folder with `CASE.b2nd` and `CASE.json`.
        labels: Foreground labels in them; each becomes a channel.
    """

    folder: Path
    labels: int


@dataclass
class CaseFolder:
    """Cases of one preprocessed folder by position; each process opens its own files.

    Args:
        folder: Folder with `CASE.b2nd`, `CASE_label.b2nd`, `CASE_locations.npy`, `CASE.json`.
        ids: Cases.
        previous: Where their segmentations by the previous stage are, in a cascade.
    """

    folder: Path
    ids: tuple[str, ...]
    previous: PreviousStage | None = None
    _open: dict[str, StoredCase] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        missing = [case for case in self.ids if not (self.folder / f"{case}.json").is_file()]
        if missing or not self.ids:
            raise DatasetError(
                f"{self.folder}: cannot train, cases are not preprocessed",
                complaints=[f"{case}: {case}.json is missing" for case in missing]
                or ["the list of training cases is empty"],
                remedy="Run 'selfseg plan' again; it makes what is missing.",
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, object]:
        """Leave open files behind: they do not cross a process border."""
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, index: int) -> StoredCase:
        case = self.ids[index]
        if case not in self._open:
            self._open[case] = self._read(case)
        return self._open[case]

    def hold_in_memory(self, limit_bytes: float | None = None) -> bool:
        """Decompress all cases into memory if they fit; processes forked later share them.

        Args:
            limit_bytes: Largest total; default: a quarter of the free memory.

        Returns:
            True if all cases are in memory now.
        """
        if limit_bytes is None:
            limit_bytes = MEMORY_SHARE * free_memory_gib() * 2**30
        files = [self._read(case) for case in self.ids]
        total = sum(
            math.prod(array.shape) * array.dtype.itemsize
            for case in files
            for array in (case.image, case.label, case.previous)
            if array is not None
        )
        if total > limit_bytes:
            return False
        for case in files:
            whole = slice(None)
            try:
                image, label = case.image[whole], case.label[whole]
                previous = None if case.previous is None else case.previous[whole]
            except RuntimeError as error:
                raise self._damaged(case.id, f"cannot be decompressed ({error})") from error
            self._open[case.id] = replace(case, image=image, label=label, previous=previous)
        return True

    def cut(
        self, index: int, corner: Corner, shape: Sequence[int], *, context: int = 0
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
        """Copy a patch: image (c, *shape), 0 outside, and label (*shape), -1 outside.

        Args:
            index: Position of the case.
            corner: Of the patch without context.
            shape: Of the patch without context.
            context: Slices added at either end of the first axis; beyond the image they repeat its
                last slice.

        Raises:
            DatasetError: The file is damaged there.
        """
        case = self[index]
        low, high = corner[0] - context, corner[0] + shape[0] + context
        first, last = (max(low, 0), min(high, case.shape[0])) if context else (low, high)
        corner, shape = (first, *corner[1:]), (last - first, *shape[1:])
        try:
            image = cut(case.image, corner, shape, fill=PAD_IMAGE)
            label = cut(case.label, corner, shape, fill=PAD_LABEL)
        except RuntimeError as error:
            raise self._damaged(case.id, f"cannot be decompressed ({error})") from error
        ends = (first - low, high - last)
        if ends == (0, 0):
            return image, label
        rest = ((0, 0), (0, 0))
        return np.pad(image, ((0, 0), ends, *rest), "edge"), np.pad(label, (ends, *rest), "edge")

    def cut_previous(
        self, index: int, corner: Corner, shape: Sequence[int]
    ) -> npt.NDArray[np.int16] | None:
        """Copy a patch of the previous stage's segmentation (*shape), -1 outside like the label.

        Raises:
            DatasetError: The file is damaged there.
        """
        case = self[index]
        if case.previous is None:
            return None
        try:
            return cut(case.previous, corner, shape, fill=PAD_LABEL)
        except RuntimeError as error:
            assert self.previous is not None
            raise DatasetError(
                f"{self.previous.folder / case.id}.b2nd: cannot be decompressed ({error})",
                remedy="Delete this folder and train again: it is made anew.",
            ) from error

    def _read(self, case: str) -> StoredCase:
        record = serial.load(PreprocessedCase, self.folder / f"{case}.json")
        try:
            path = self.folder / f"{case}_locations.npy"
            locations = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._damaged(case, f"has no usable class locations ({error})") from error
        stored = StoredCase(
            id=case,
            image=open_array(self.folder / f"{case}.b2nd"),
            label=open_array(self.folder / f"{case}_label.b2nd"),
            locations=locations,
            counts=record.num_locations,
            annotated=record.num_annotated,
            previous=self._read_previous(case),
        )
        shapes = {tuple(record.shape), stored.shape, tuple(stored.image.shape[1:])}
        if stored.previous is not None:
            shapes.add(tuple(stored.previous.shape))
        if len(shapes) > 1 or len(locations) != stored.num_locations:
            raise self._damaged(case, f"consists of files that do not fit {case}.json")
        return stored

    def _read_previous(self, case: str) -> StoredArray | None:
        return None if self.previous is None else open_array(self.previous.folder / f"{case}.b2nd")

    def _damaged(self, case: str, finding: str) -> DatasetError:
        return DatasetError(
            f"{self.folder}: preprocessed case {case} {finding}",
            remedy=f"Delete {case}.json there and run 'selfseg plan' again.",
        )


def cut(
    array: StoredArray, corner: Corner, shape: Sequence[int], *, fill: float
) -> npt.NDArray[Any]:
    """Copy a box out of the trailing axes of an array; what lies outside is filled.

    Args:
        array: Array or file of an array; leading axes are taken whole.
        corner: Lowest voxel of the box; may be negative.
        shape: Voxels of the box.
        fill: Value outside the array.
    """
    lead = len(array.shape) - len(shape)
    source, target = [slice(None)] * lead, [slice(None)] * lead
    for low, size, whole in zip(corner, shape, array.shape[lead:], strict=True):
        start, stop = max(low, 0), min(low + size, whole)
        if start >= stop:
            return np.full((*array.shape[:lead], *shape), fill, dtype=array.dtype)
        source.append(slice(start, stop))
        target.append(slice(start - low, stop - low))
    inside = array[tuple(source)]
    if inside.shape[lead:] == tuple(shape):
        return np.array(inside)
    box = np.full((*array.shape[:lead], *shape), fill, dtype=array.dtype)
    box[tuple(target)] = inside
    return box
