"""Regions of masks that are classified: found, measured, described by features."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from selfseg.classification.region_files import SHOWN, WHICH_LESIONS, RegionFiles
from selfseg.errors import DatasetError, SelfSegError
from selfseg.evaluation.measure import components_of, read_masked
from selfseg.execution.processes import map_parallel
from selfseg.io.images import Image
from selfseg.radiomics.extract import prepare_region, region_features
from selfseg.radiomics.mirp_features import require_mirp
from selfseg.radiomics.perturb import perturbed_regions
from selfseg.radiomics.region import Region
from selfseg.records.classification import FeatureSelection
from selfseg.records.features import RadiomicsOptions
from selfseg.words import counted

Mask = npt.NDArray[np.bool_]
R = TypeVar("R")


@dataclass(frozen=True)
class FoundRegion:
    """A region that is there: its place in a case, and how large it is."""

    case: str
    lesion: int | None
    volume_mm3: float
    finest_spacing_mm: float
    num_channels: int


@dataclass(frozen=True)
class RegionFeatures:
    """Features of one region; `readings` are the same under other contours."""

    case: str
    lesion: int | None
    values: dict[str, float]
    readings: tuple[dict[str, float], ...] = ()


def find_regions(files: Sequence[RegionFiles], *, workers: int) -> list[FoundRegion]:
    """Return the regions that are there, and their sizes; a case without one gives none."""
    return [item for found in _each(_find, files, workers, "reading masks") for item in found]


def compute_features(
    files: Sequence[RegionFiles],
    options: RadiomicsOptions,
    *,
    contours: FeatureSelection | None,
    seed: int,
    workers: int,
) -> list[RegionFeatures]:
    """Return the radiomics of every region.

    Args:
        files: Cases.
        options: How features are computed.
        contours: How random contours are drawn, beside an eroded and a dilated one; None: none.
        seed: Of the contours; they depend on it and the case alone.
        workers: Parallel processes.

    Raises:
        DatasetError: Files that cannot be used; all of them.
        SelfSegError: Further families are wanted, and mirp is not installed.
    """
    require_mirp(options.further)
    function = functools.partial(_compute, options=options, contours=contours, seed=seed)
    return [
        item for found in _each(function, files, workers, "computing features") for item in found
    ]


def check_files(files: Sequence[RegionFiles], num_channels: int, *, workers: int) -> None:
    """Look at every mask and its image before a network sees the first.

    Raises:
        DatasetError: Other grids, other channels, values that are not finite; all complaints.
    """
    check = functools.partial(_check, num_channels=num_channels)
    _each(check, files, workers, "checking masks and images")


def region_masks(
    files: RegionFiles, labels: npt.NDArray[np.integer]
) -> Iterator[tuple[int | None, Mask]]:
    """Yield the mask of each wanted region (z, y, x): a case's (None), or its lesions' by number.

    Lesions are components (26 neighbors) numbered from the largest, as `selfseg measure` does. One
    is made at a time: a noisy prediction has thousands, each as large as the image.
    """
    values = files.region.values
    mask = np.isin(labels, values) if values else labels != 0
    if files.unit == "case":
        if mask.any():
            yield None, mask
        return
    for number, (component, box) in enumerate(components_of(mask), start=1):
        if files.lesions is None or number in files.lesions:
            found = np.zeros(mask.shape, dtype=bool)
            found[box] = component
            yield number, found


def _find(files: RegionFiles) -> list[FoundRegion] | SelfSegError:
    try:
        label_map, image = read_masked(files.mask, files.images)
    except SelfSegError as error:
        return error
    assert image is not None
    if files.unit == "lesion" and not files.region.values:
        values = np.unique(label_map.array[label_map.array != 0])
        if len(values) > 1:
            found = ", ".join(map(str, values[:SHOWN]))
            return DatasetError(
                f"{files.mask}: lesions of which value? It has {found}; {WHICH_LESIONS}"
            )
    spacing_mm = label_map.geometry.spacing_mm
    return [
        FoundRegion(
            case=files.id,
            lesion=lesion,
            volume_mm3=float(mask.sum() * math.prod(spacing_mm)),
            finest_spacing_mm=min(spacing_mm),
            num_channels=len(image.array),
        )
        for lesion, mask in region_masks(files, label_map.array[0])
    ]


def _read(files: RegionFiles, num_channels: int) -> tuple[Image, Image]:
    """Return mask and image of a case, on one grid and with as many channels as are needed."""
    label_map, image = read_masked(files.mask, files.images)
    assert image is not None
    if len(image.array) != num_channels:
        found = counted(len(image.array), "channel")
        raise DatasetError(f"{files.images[0]}: {found}, not {num_channels}")
    return label_map, image


def _check(files: RegionFiles, num_channels: int) -> list[None] | SelfSegError:
    try:
        _read(files, num_channels)
    except SelfSegError as error:
        return error
    return []


def _compute(
    files: RegionFiles, options: RadiomicsOptions, contours: FeatureSelection | None, seed: int
) -> list[RegionFeatures] | SelfSegError:
    try:
        label_map, image = _read(files, len(options.channels))
    except SelfSegError as error:
        return error
    own_seed = zlib.crc32(files.id.encode()) + seed
    rows = []
    for lesion, mask in region_masks(files, label_map.array[0]):
        region = prepare_region(image.array, mask, label_map.geometry.spacing_mm, options)
        others = () if contours is None else _others(region, contours, own_seed)
        rows.append(
            RegionFeatures(
                case=files.id,
                lesion=lesion,
                values=region_features(region, options),
                readings=tuple(region_features(other, options) for other in others),
            )
        )
    return rows


def _others(region: Region, contours: FeatureSelection, seed: int) -> tuple[Region, ...]:
    return perturbed_regions(
        region,
        jitters=contours.jitters,
        shift_voxels=contours.shift_voxels,
        smoothness_voxels=contours.smoothness_voxels,
        seed=seed,
    )


def _each(
    function: Callable[[RegionFiles], list[R] | SelfSegError],
    files: Sequence[RegionFiles],
    workers: int,
    label: str,
) -> list[list[R]]:
    """Return what a function finds in each case; raise all complaints as one."""
    results = map_parallel(function, files, workers=workers, label=label)
    complaints = [result.message for result in results if isinstance(result, SelfSegError)]
    if complaints:
        more = len(complaints) - SHOWN
        shown = complaints[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise DatasetError(
            f"{len(complaints)} of {len(files)} cases cannot be used",
            complaints=shown,
            remedy="Correct these files, or leave them out.",
        )
    return [result for result in results if not isinstance(result, SelfSegError)]
