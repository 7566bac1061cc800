"""Regions of masks that are classified: find them, measure them, compute their features."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from selfseg.errors import DatasetError, SelfSegError
from selfseg.evaluation.files import label_maps
from selfseg.evaluation.labels import declared_targets
from selfseg.evaluation.measure import components_of, read_masked
from selfseg.execution.processes import map_parallel
from selfseg.io.images import IMAGE_ENDINGS
from selfseg.io.matching import images_of
from selfseg.radiomics.extract import prepare_region, region_features
from selfseg.radiomics.perturb import perturbed_regions
from selfseg.records.classification import RegionOfInterest, Unit
from selfseg.records.features import RadiomicsOptions

Mask = npt.NDArray[np.bool_]
R = TypeVar("R")
SHOWN = 12
WHICH_LESIONS = "say with --region in which label 'selfseg measure' has numbered them"


@dataclass(frozen=True)
class RegionFiles:
    """The files of one case, and what is classified in it.

    Attributes:
        lesions: Numbers of the wanted components; None: all of them.
    """

    id: str
    mask: Path
    images: tuple[Path, ...]
    region: RegionOfInterest
    unit: Unit
    lesions: frozenset[int] | None = None


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


def region_of_interest(
    masks: Sequence[Path], asked: str | None, unit: Unit = "case", *, images: Path | None = None
) -> RegionOfInterest:
    """Return the part of the masks that a name or a value means; None means all of it.

    Args:
        masks: Their folders; a dataset.json there or one folder up says what values are called.
        asked: Label, region or value.
        unit: Whether a case is one region, or each of its components.
        images: Their folder. Beside predictions there is no dataset.json; they have the values
            that the data set of the images declares.

    Raises:
        DatasetError: No such label or region; or lesions are wanted, whose numbers mean nothing
            without the label that they are counted in.
    """
    beside = () if asked is None or images is None else (images,)
    declared = (declared_targets(folder) for folder in (*masks, *beside))
    targets = next((found for found in declared if found is not None), None)
    if asked is None:
        if unit == "lesion" and targets is not None and len(targets.names) > 1:
            raise DatasetError(
                f"lesions of which label? The masks have {', '.join(targets.names)}",
                remedy=f"{WHICH_LESIONS.capitalize()}.",
            )
        # What is not annotated is no part of a lesion.
        values = () if targets is None else tuple(label.value for label in targets.labels)
        return RegionOfInterest(name="foreground", values=values)
    if targets is not None and asked in targets.names:
        members = targets.members[targets.names.index(asked)]
        values = tuple(targets.labels[index - 1].value for index in members)
        return RegionOfInterest(name=asked, values=values)
    if asked.isdecimal() and int(asked) > 0:
        return RegionOfInterest(name=asked, values=(int(asked),))
    names = ", ".join(targets.names) if targets is not None else "none declared"
    raise DatasetError(
        f"--region {asked}: neither a label of the masks ({names}) nor a value above 0",
        remedy="Name a label or region of dataset.json, or give its value in the masks.",
    )


def find_files(
    masks: Sequence[Path],
    images: Path,
    region: RegionOfInterest,
    unit: Unit,
    wanted: Mapping[str, Collection[int]] | None = None,
) -> tuple[RegionFiles, ...]:
    """Return the files of every case that has a mask.

    Args:
        masks: Their folders: one, or those of the validation cases of several folds.
        images: Their folder.
        region: Part of the masks.
        unit: Whether a case is one region, or each of its components.
        wanted: Cases and lesion numbers that are labeled; None: all cases and lesions.

    Raises:
        DatasetError: A wanted case without a mask, a case without an image; all of them.
    """
    maps = _mask_files(masks)
    names = sorted(maps if wanted is None else wanted)
    _refuse_missing(masks, names, maps)
    found = images_of(images, names)
    return tuple(
        RegionFiles(
            id=name,
            mask=maps[name],
            images=found[name],
            region=region,
            unit=unit,
            lesions=None if wanted is None or unit == "case" else frozenset(wanted[name]),
        )
        for name in names
    )


def find_regions(files: Sequence[RegionFiles], *, workers: int) -> list[FoundRegion]:
    """Return the regions that are there, and their sizes; a case without one gives none."""
    return [item for found in _each(_find, files, workers, "reading masks") for item in found]


def compute_features(
    files: Sequence[RegionFiles],
    options: RadiomicsOptions,
    *,
    jitters: int | None,
    seed: int,
    workers: int,
) -> list[RegionFeatures]:
    """Return the radiomics of every region.

    Args:
        files: Cases.
        options: How features are computed.
        jitters: Random contours beside an eroded and a dilated one; None: no other contours.
        seed: Of the contours; they depend on it and the case alone.
        workers: Parallel processes.

    Raises:
        DatasetError: Files that cannot be used; all of them.
    """
    function = functools.partial(_compute, options=options, jitters=jitters, seed=seed)
    return [
        item for found in _each(function, files, workers, "computing features") for item in found
    ]


def _refuse_missing(masks: Sequence[Path], names: Sequence[str], maps: Mapping[str, Path]) -> None:
    missing = [name for name in names if name not in maps]
    if names and not missing:
        return
    complaints = [f"case {name}: no mask {name}.*" for name in missing[:SHOWN]]
    complaints += [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
    raise DatasetError(
        f"{masks[0]}: {len(missing) or 'all'} masks are missing",
        complaints=complaints,
        remedy=f"Name masks as the cases ({', '.join(IMAGE_ENDINGS[:3])}, …).",
    )


def _mask_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the label maps of several folders by case."""
    found: dict[str, Path] = {}
    twice = []
    for folder in folders:
        maps = label_maps(folder)
        twice += [f"case {name}: {found[name]} and {maps[name]}" for name in maps if name in found]
        found |= maps
    if twice:
        raise DatasetError(
            f"{len(twice)} cases have two masks",
            complaints=twice[:SHOWN],
            remedy="Give each case's mask once: that of the fold that did not train on it.",
        )
    return found


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


def _compute(
    files: RegionFiles, options: RadiomicsOptions, jitters: int | None, seed: int
) -> list[RegionFeatures] | SelfSegError:
    try:
        label_map, image = read_masked(files.mask, files.images)
    except SelfSegError as error:
        return error
    assert image is not None
    if len(image.array) != len(options.channels):
        return DatasetError(
            f"{files.images[0]}: {len(image.array)} channels, not {len(options.channels)}"
        )
    own_seed = zlib.crc32(files.id.encode()) + seed
    rows = []
    for lesion, mask in region_masks(files, label_map.array[0]):
        region = prepare_region(image.array, mask, label_map.geometry.spacing_mm, options)
        others = (
            perturbed_regions(region, jitters=jitters, seed=own_seed) if jitters is not None else ()
        )
        rows.append(
            RegionFeatures(
                case=files.id,
                lesion=lesion,
                values=region_features(region, options),
                readings=tuple(region_features(other, options) for other in others),
            )
        )
    return rows


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
