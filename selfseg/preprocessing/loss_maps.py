"""Maps of the reference that some losses need, made once a case on the working grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.execution.locks import waited_for
from selfseg.execution.processes import map_parallel
from selfseg.io.store import open_array
from selfseg.losses.maps import DISTANCE_PARTS, MOST_PIECES
from selfseg.preprocessing.dataset import CaseFiles
from selfseg.preprocessing.previous import CompanionFiles
from selfseg.records import serial
from selfseg.records.dataset import Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.loss_maps import (
    NO_SURFACE,
    ComponentsMap,
    DistanceMap,
    LossMap,
    SegmentsMap,
    TubeMap,
)
from selfseg.skeletons import thin

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.int16]

# Goes into the digest that decides what is up to date: raise it when results change.
MAPS_VERSION = 3
LARGEST = NO_SURFACE - 1


def prepare_maps(  # noqa: PLR0913 (what a map depends on)
    cases: Sequence[str],
    arrays: Path,
    folder: Path,
    *,
    maps: Sequence[LossMap],
    targets: Targets,
    flat: bool,
    patch: tuple[int, ...],
    workers: int,
) -> int:
    """Make the maps of preprocessed cases where they are missing; return how many were made.

    Args:
        cases: Ids.
        arrays: Folder of the preprocessed cases.
        folder: Where the maps go, (maps · n, z, y, x) int16 a case.
        maps: Which, in the order of `needed_maps`.
        targets: What the labels mean.
        flat: Every slice by itself, for networks of two axes.
        patch: Training patch; the arrays' chunks are sized for it.
        workers: Parallel processes.
    """
    work = partial(
        _prepare_case, arrays=arrays, maps=tuple(maps), targets=targets, flat=flat, patch=patch
    )
    with waited_for(folder.with_name(f".{folder.name}.lock"), "prepares these maps"):
        files = [CompanionFiles(folder, case) for case in cases]
        return sum(map_parallel(work, files, workers=workers, label="Maps for the loss"))


def _prepare_case(
    files: CompanionFiles,
    *,
    arrays: Path,
    maps: tuple[LossMap, ...],
    targets: Targets,
    flat: bool,
    patch: tuple[int, ...],
) -> bool:
    """Make the maps of one case, unless they are up to date; tell whether they were not."""
    record = serial.load(PreprocessedCase, CaseFiles(arrays, files.id).record)
    content = (MAPS_VERSION, record.source, serial.digest(targets), maps, flat)
    source = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
    if files.is_up_to_date(source):
        return False
    label = open_array(CaseFiles(arrays, files.id).label)[:]
    made = [make_map(label, options, targets, record.spacing_mm, flat=flat) for options in maps]
    files.write(np.concatenate(made), source, patch=patch)
    return True


def make_map(
    label: npt.NDArray[np.integer],
    options: LossMap,
    targets: Targets,
    spacing_mm: Sequence[float],
    *,
    flat: bool,
) -> Map:
    """Return one kind of map of a case.

    Args:
        label: Label indices (z, y, x); ignored voxels and those outside count as background.
        options: Which kind, of which labels, and how it is made.
        targets: What the labels mean.
        spacing_mm: Voxel size.
        flat: Every slice by itself, for networks of two axes.

    Returns:
        (n, z, y, x), n foreground labels or regions; see `selfseg.losses.maps.Maps`.
    """
    made = np.zeros((len(targets.members), *label.shape), np.int16)
    for index, (name, members) in enumerate(zip(targets.names, targets.members, strict=True)):
        if options.labels is not None and name not in options.labels:
            continue
        mask = np.isin(label, members)
        if flat:
            used = 0
            for z in range(len(mask)):
                part = _make(mask[z], options, spacing_mm[1:])
                if options.kind in ("components", "segments"):  # numbers go on from slice to slice
                    part, used = _renumbered(part, used)
                made[index, z] = part
        else:
            made[index] = _make(mask, options, spacing_mm)
    return made


def signed_distance(mask: Mask, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the distance to the surface in voxels of the finest axis, negative inside.

    Voxels of the mask that touch the background have 0, so inside reaches one voxel less far
    (Kervadec et al. 2019). Without any voxel of the mask it is infinite, without any other
    minus infinite.
    """
    if not mask.any() or mask.all():
        return np.full(mask.shape, -np.inf if mask.any() else np.inf, np.float32)
    finest = min(spacing_mm)
    sampling = [spacing / finest for spacing in spacing_mm]
    outside = ndimage.distance_transform_edt(~mask, sampling)
    inside = ndimage.distance_transform_edt(mask, sampling)
    distance: npt.NDArray[np.float32] = (outside - np.maximum(inside - 1, 0)).astype(np.float32)
    return distance


def tube_map(mask: Mask, options: TubeMap) -> Mask:
    """Return the center line of a mask, widened (Kirchhoff et al. 2024)."""
    line = thin(mask)
    if not options.widening:
        return line
    ball = ndimage.generate_binary_structure(mask.ndim, 1)
    widened: Mask = ndimage.binary_dilation(line, ball, iterations=options.widening)
    return widened


def segment_map(mask: Mask, options: SegmentsMap) -> npt.NDArray[np.int32]:
    """Cut a tubular mask into short pieces (Yan et al. 2018, in two and three axes).

    The center line is cut at its junctions, curves of fewer than `shortest` voxels are dropped,
    longer ones cut into pieces of about `length` voxels (about `length_radii` radii where that is
    more). A voxel belongs to the piece whose center line is nearest, if that is no farther than the
    radius of the tube there plus `range_margin` voxels.

    Returns:
        0 outside all ranges, s in the range of piece s, −s on its center line.
    """
    line = thin(mask)
    if not line.any():
        return np.zeros(mask.shape, np.int32)
    radius = ndimage.distance_transform_edt(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]
    touching = np.ones((3,) * mask.ndim, int)
    neighbors = ndimage.convolve(line.astype(np.int8), touching, mode="constant") - 1
    curves, _ = ndimage.label(line & (neighbors <= 2), touching)
    numbers = np.zeros(mask.shape, np.int32)
    used = 0
    for number, box in enumerate(ndimage.find_objects(curves), start=1):
        points = np.argwhere(curves[box] == number)
        if len(points) < options.shortest:
            continue
        points = _walk(points) + [part.start for part in box]
        typical = float(np.median(radius[tuple(points.T)]))
        length = max(options.length, round(options.length_radii * typical))
        pieces = max(len(points) // length, 1)
        for piece in np.array_split(points, pieces):
            used += 1
            numbers[tuple(piece.T)] = used
    if not used:
        return numbers
    away, nearest = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
    owner = tuple(nearest)
    ranges = np.where(np.floor(away) <= radius[owner] + options.range_margin, numbers[owner], 0)
    segments: npt.NDArray[np.int32] = np.where(numbers > 0, -numbers, ranges)
    return segments


def _make(mask: Mask, options: LossMap, spacing_mm: Sequence[float]) -> Map:
    match options:
        case ComponentsMap():
            return _numbered(ndimage.label(mask, np.ones((3,) * mask.ndim))[0])
        case DistanceMap():
            return _whole_parts(signed_distance(mask, spacing_mm))
        case SegmentsMap():
            return _numbered(segment_map(mask, options))
        case TubeMap():
            return tube_map(mask, options).astype(np.int16)
        case _:
            assert_never(options)


def _whole_parts(distance: npt.NDArray[np.float32]) -> Map:
    """Return distances as they are stored, infinite ones as `NO_SURFACE` with their sign."""
    parts = np.clip(np.rint(distance * DISTANCE_PARTS), -LARGEST, LARGEST)
    stored: Map = np.where(np.isinf(distance), np.copysign(NO_SURFACE, distance), parts).astype(
        np.int16
    )
    return stored


def _numbered(pieces: npt.NDArray[np.integer]) -> Map:
    """Return numbers that fit int16; what is beyond shares numbers with others."""
    size = np.abs(pieces)
    small = np.where(size > 0, (size - 1) % MOST_PIECES + 1, 0)
    numbers: Map = (np.sign(pieces) * small).astype(np.int16)
    return numbers


def _renumbered(pieces: Map, used: int) -> tuple[Map, int]:
    """Return the pieces of a slice with numbers above those that are used, and the new count."""
    size = pieces.astype(np.int32)
    top = int(np.abs(size).max(initial=0))
    return _numbered(size + np.sign(size) * used), used + top


def _walk(points: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the voxels of a curve without branches in the order in which they follow each other.

    A closed curve starts anywhere. Where steps are ambiguous (stairs) the nearest voxel comes next.
    """
    rest = {tuple(int(v) for v in point) for point in points}
    steps = sorted(np.ndindex((3,) * points.shape[1]), key=lambda s: sum(v != 1 for v in s))
    offsets = [tuple(v - 1 for v in step) for step in steps if any(v != 1 for v in step)]

    def near(place: tuple[int, ...]) -> list[tuple[int, ...]]:
        around = (tuple(map(sum, zip(place, offset, strict=True))) for offset in offsets)
        return [other for other in around if other in rest]

    here = min(rest, key=lambda place: len(near(place)))
    order = []
    while rest:
        rest.discard(here)
        order.append(here)
        following = near(here)
        if not following:
            if not rest:
                break
            here = min(rest, key=lambda place: math.dist(place, order[-1]))
        else:
            here = following[0]
    return np.array(order)
