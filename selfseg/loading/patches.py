"""Preprocessed cases of a folder, opened lazily or held in memory, and patches cut from them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from selfseg.errors import DatasetError
from selfseg.execution.resources import free_memory_gib
from selfseg.io.store import StoredArray
from selfseg.loading.areas import Area, area_of
from selfseg.loading.sampling import Corner
from selfseg.loading.stored import StoredCase, damaged_case, read_case, read_record
from selfseg.records.geometry import Box
from selfseg.records.loss_maps import OUTSIDE_IMAGE

# Share of the free memory that decompressed cases may fill; the rest is for training.
MEMORY_SHARE = 0.25
# Cases whose files stay open in one process. Each takes a handle for image, label and previous
# stage; systems allow a process 1024, sometimes 256. Opening a case again takes about 1 ms.
OPEN_CASES = 32
PAD_IMAGE = 0
PAD_LABEL = -1


@dataclass(frozen=True)
class PreviousStage:
    """Further input of a cascade: segmentations of the previous stage on the working grid.

    Attributes:
        folder: Folder with `CASE.b2nd` and `CASE.json`.
        labels: Foreground labels in them; each becomes a channel.
        boxes: Of each case, where samples are cut; None: anywhere.
    """

    folder: Path
    labels: int
    boxes: Mapping[str, tuple[Box, ...]] | None = None

    def with_boxes(self, cases: Sequence[str]) -> tuple[str, ...]:
        """Return the cases that samples can be cut from: those in which something was found."""
        return tuple(case for case in cases if self.boxes is None or self.boxes[case])


@dataclass
class CaseFolder:
    """Cases of one preprocessed folder by position; each process opens its own files.

    The files of the cases used last stay open, so that no number of cases exhausts file handles.

    Args:
        folder: Folder with `CASE.b2nd`, `CASE_label.b2nd`, `CASE_locations.npy`, `CASE.json`.
        ids: Cases.
        previous: Where their segmentations by the previous stage are, in a cascade.
        maps: Folder with `CASE.b2nd` of maps, where the loss needs any.
    """

    folder: Path
    ids: tuple[str, ...]
    previous: PreviousStage | None = None
    maps: Path | None = None
    _held: dict[str, StoredCase] = field(default_factory=dict, repr=False)
    _open: OrderedDict[str, StoredCase] = field(default_factory=OrderedDict, repr=False)

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
        """Leave open files and arrays behind: they do not cross a process border."""
        return {**self.__dict__, "_held": {}, "_open": OrderedDict()}

    def __getitem__(self, index: int) -> StoredCase:
        case = self.ids[index]
        if case in self._held:
            return self._held[case]
        if case not in self._open:
            while len(self._open) >= OPEN_CASES:
                self._open.popitem(last=False)
            self._open[case] = self._read(case)
        self._open.move_to_end(case)
        return self._open[case]

    def draw_area(self, index: int, rng: np.random.Generator) -> Area:
        """Return where samples of a case are cut: anywhere, or in one of its boxes, all alike."""
        case = self[index]
        boxes = (
            ()
            if self.previous is None or self.previous.boxes is None
            else (self.previous.boxes[case.id])
        )
        box = boxes[int(rng.integers(len(boxes)))] if boxes else None
        return area_of(case.shape, case.locations, case.counts, case.annotated, box)

    def hold_in_memory(self, limit_bytes: float | None = None) -> bool:
        """Decompress all cases into memory if they fit; processes forked later share them.

        One case is open at a time.

        Args:
            limit_bytes: Largest total; default: a quarter of the free memory.

        Returns:
            True if all cases are in memory now.

        Raises:
            DatasetError: A file is missing or damaged.
        """
        if limit_bytes is None:
            limit_bytes = MEMORY_SHARE * free_memory_gib() * 2**30
        if self.bytes_in_memory() > limit_bytes:
            return False
        for case in self.ids:
            self._held[case] = self.whole(case)
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
            raise damaged_case(self.folder, case.id, f"cannot be decompressed ({error})") from error
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
        case, folder = self[index], self._previous_folder
        return self._cut_companion(case.previous, folder, case.id, corner, shape, fill=PAD_LABEL)

    def cut_maps(
        self, index: int, corner: Corner, shape: Sequence[int]
    ) -> npt.NDArray[np.int16] | None:
        """Copy a patch of the maps (m, *shape), `OUTSIDE_IMAGE` outside; None without maps.

        Raises:
            DatasetError: The file is damaged there.
        """
        case = self[index]
        return self._cut_companion(case.maps, self.maps, case.id, corner, shape, fill=OUTSIDE_IMAGE)

    def bytes_in_memory(self) -> int:
        """Return the size of all cases from their records; all have the first one's channels."""
        first = self._read(self.ids[0])
        a_voxel = 0
        for array in (first.image, first.label, first.previous, first.maps):
            if array is not None:
                a_voxel += math.prod(array.shape[:-3]) * array.dtype.itemsize
        a_row = 3 * first.locations.itemsize
        total = 0
        for record in (read_record(self.folder, case) for case in self.ids):
            rows = sum(record.num_locations) + record.num_annotated
            total += math.prod(record.shape) * a_voxel + rows * a_row
        return total

    def whole(self, name: str) -> StoredCase:
        """Return a case whose arrays are in memory.

        Raises:
            DatasetError: A file is missing or damaged.
        """
        case, whole = self._read(name), slice(None)
        try:
            image, label = case.image[whole], case.label[whole]
        except RuntimeError as error:
            raise damaged_case(self.folder, case.id, f"cannot be decompressed ({error})") from error
        size = case.shape
        previous = self._cut_companion(
            case.previous, self._previous_folder, case.id, (0, 0, 0), size
        )
        maps = self._cut_companion(case.maps, self.maps, case.id, (0, 0, 0), size)
        return replace(case, image=image, label=label, previous=previous, maps=maps)

    def _read(self, case: str) -> StoredCase:
        return read_case(self.folder, case, previous=self._previous_folder, maps=self.maps)

    @property
    def _previous_folder(self) -> Path | None:
        return None if self.previous is None else self.previous.folder

    @staticmethod
    def _cut_companion(
        array: StoredArray | None,
        folder: Path | None,
        case: str,
        corner: Corner,
        shape: Sequence[int],
        *,
        fill: int = 0,
    ) -> npt.NDArray[np.int16] | None:
        if array is None or folder is None:
            return None
        try:
            return cut(array, corner, shape, fill=fill)
        except RuntimeError as error:
            raise DatasetError(
                f"{folder / case}.b2nd: cannot be decompressed ({error})",
                remedy="Delete this folder and train again: it is made anew.",
            ) from error


class Overlap(NamedTuple):
    """The part of a box that lies in an array: where it is there, and where in the box."""

    source: tuple[slice, ...]
    target: tuple[slice, ...]
    is_whole: bool


def overlap(corner: Corner, shape: Sequence[int], whole: Sequence[int]) -> Overlap | None:
    """Return which part of a box lies in an array of some shape; None: no voxel does.

    Args:
        corner: Lowest voxel of the box; may be negative.
        shape: Voxels of the box.
        whole: Voxels of the array.
    """
    source, target = [], []
    for low, size, end in zip(corner, shape, whole, strict=True):
        start, stop = max(low, 0), min(low + size, end)
        if start >= stop:
            return None
        source.append(slice(start, stop))
        target.append(slice(start - low, stop - low))
    is_whole = all(t == slice(0, size) for t, size in zip(target, shape, strict=True))
    return Overlap(tuple(source), tuple(target), is_whole)


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
    lead = (slice(None),) * (len(array.shape) - len(shape))
    found = overlap(corner, shape, array.shape[len(lead) :])
    if found is not None and found.is_whole:
        return np.array(array[(*lead, *found.source)])
    box = np.full((*array.shape[: len(lead)], *shape), fill, dtype=array.dtype)
    if found is not None:
        box[(*lead, *found.target)] = array[(*lead, *found.source)]
    return box
