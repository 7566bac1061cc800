"""Boxes around the components of a previous stage's segmentation, for training and prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.arrays import bounding_box
from selfseg.errors import RecordError
from selfseg.execution.processes import map_parallel
from selfseg.io.store import open_array
from selfseg.preprocessing.dataset import CaseFiles
from selfseg.preprocessing.previous import CompanionFiles
from selfseg.records import serial
from selfseg.records.crop import CaseCrops, Crop
from selfseg.records.dataset import Targets
from selfseg.records.geometry import Box, CompanionRecord, PreprocessedCase
from selfseg.records.serial import Shape3, Triple

CROPS_VERSION = 1  # goes into the digest: raise it when the same options give other boxes


@dataclass(frozen=True)
class Cropper:
    """How the crops of a configuration are found.

    Attributes:
        crop: Options.
        targets: What label indices mean.
        patch: Voxels (Z, Y, X).
    """

    crop: Crop
    targets: Targets
    patch: tuple[int, ...]

    def boxes(self, label: npt.NDArray[np.integer], spacing_mm: Triple) -> tuple[Box, ...]:
        """Return a box around each component of the labels of interest, the largest one first.

        Components touch at faces, edges or corners. A box has the margin around its component and
        at least the size of a patch, as far as the image goes; one within another is left out.

        Args:
            label: Label indices (Z, Y, X).
            spacing_mm: Of the voxels.
        """
        mask = label > 0 if self.crop.labels is None else np.isin(label, self._indices())
        inner = bounding_box(mask)
        found, _ = ndimage.label(mask[inner.slices], np.ones((3, 3, 3), np.bool_))
        voxels, tight = np.bincount(found.ravel())[1:], ndimage.find_objects(found)
        kept: list[Box] = []
        for index in np.argsort(-voxels, kind="stable"):
            if voxels[index] * prod(spacing_mm) / 1000 < self.crop.smallest_ml:
                break
            box = self._around(tight[index], inner.lower, label.shape, spacing_mm)
            if not any(_contains(other, box) for other in kept):
                kept = [other for other in kept if not _contains(box, other)] + [box]
        return tuple(kept)

    @property
    def digest(self) -> str:
        """Return what tells the boxes of two croppers apart."""
        return repr((CROPS_VERSION, self.crop, self.targets, self.patch))

    def _indices(self) -> list[int]:
        names = [item.name for item in self.targets.labels]
        return [1 + names.index(name) for name in self.crop.labels or ()]

    def _around(
        self, tight: Sequence[slice], offset: Shape3, shape: Sequence[int], spacing_mm: Triple
    ) -> Box:
        sides = [
            _grown(
                offset[axis] + part.start,
                offset[axis] + part.stop,
                margin=ceil(self.crop.margin_mm / spacing_mm[axis]),
                least=self.patch[axis],
                size=shape[axis],
            )
            for axis, part in enumerate(tight)
        ]
        (z, z_end), (y, y_end), (x, x_end) = sides
        return Box(lower=(z, y, x), upper=(z_end, y_end, x_end))


def find_crops(
    cases: Sequence[str], arrays: Path, previous: Path, folder: Path, cropper: Cropper, workers: int
) -> dict[str, tuple[Box, ...]]:
    """Return the boxes of each case; what was found before is read from `folder`.

    Args:
        cases: Ids.
        arrays: Folder of the preprocessed cases.
        previous: Folder of the previous stage's segmentations on their grid.
        folder: Where the boxes are kept.
        cropper: Finds them.
        workers: Parallel processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(_find, arrays=arrays, previous=previous, folder=folder, cropper=cropper)
    found = map_parallel(work, list(cases), workers=workers, label="Crops")
    return {item.id: item.boxes for item in found}


def _find(case: str, *, arrays: Path, previous: Path, folder: Path, cropper: Cropper) -> CaseCrops:
    files, stored = CompanionFiles(previous, case), folder / f"{case}.json"
    content = (serial.load(CompanionRecord, files.record).source, cropper.digest)
    source = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
    known = _stored(stored)
    if known is not None and known.source == source:
        return known
    record = serial.load(PreprocessedCase, CaseFiles(arrays, case).record)
    label = np.asarray(open_array(files.array)[:])
    crops = CaseCrops(id=case, source=source, boxes=cropper.boxes(label, record.spacing_mm))
    serial.save(crops, stored)
    return crops


def _stored(path: Path) -> CaseCrops | None:
    try:
        return serial.load(CaseCrops, path) if path.is_file() else None
    except RecordError:
        return None


def _grown(low: int, high: int, *, margin: int, least: int, size: int) -> tuple[int, int]:
    """Return a side with a margin and of at least some length, as far as the axis goes."""
    low, high = max(low - margin, 0), min(high + margin, size)
    length = max(high - low, min(least, size))
    low = min(max(low - (length - (high - low)) // 2, 0), size - length)
    return low, low + length


def _contains(outer: Box, inner: Box) -> bool:
    pairs = zip(outer.lower, inner.lower, outer.upper, inner.upper, strict=True)
    return all(a <= b and c >= d for a, b, c, d in pairs)
