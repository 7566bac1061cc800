"""Maps of the reference that some losses need, made once a case on the working grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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
from selfseg.records.loss import MapKind
from selfseg.skeletons import thin

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.int16]

# Goes into the digest that decides what is up to date: raise it when results change.
MAPS_VERSION = 1
TUBE_WIDENING = 2  # voxels by which the center line is widened (Kirchhoff et al. 2024)
SHORTEST_SEGMENT = 4  # voxels of center line (Yan et al. 2018)
SEGMENT_LENGTH = 8
RANGE_MARGIN = 2.0  # voxels around a tube that still belong to its segment
LARGEST = np.iinfo(np.int16).max


def prepare_maps(  # noqa: PLR0913 (what a map depends on)
    cases: Sequence[str],
    arrays: Path,
    folder: Path,
    *,
    kinds: Sequence[MapKind],
    targets: Targets,
    flat: bool,
    patch: tuple[int, ...],
    workers: int,
) -> int:
    """Make the maps of preprocessed cases where they are missing; return how many were made.

    Args:
        cases: Ids.
        arrays: Folder of the preprocessed cases.
        folder: Where the maps go, (kinds · n, z, y, x) int16 a case.
        kinds: Which, in the order of `needed_maps`.
        targets: What the labels mean.
        flat: Every slice by itself, for networks of two axes.
        patch: Training patch; the arrays' chunks are sized for it.
        workers: Parallel processes.
    """
    work = partial(
        _prepare_case, arrays=arrays, kinds=tuple(kinds), targets=targets, flat=flat, patch=patch
    )
    with waited_for(folder.with_name(f".{folder.name}.lock")):
        files = [CompanionFiles(folder, case) for case in cases]
        return sum(map_parallel(work, files, workers=workers, label="Maps for the loss"))


def _prepare_case(
    files: CompanionFiles,
    *,
    arrays: Path,
    kinds: tuple[MapKind, ...],
    targets: Targets,
    flat: bool,
    patch: tuple[int, ...],
) -> bool:
    """Make the maps of one case, unless they are up to date; tell whether they were not."""
    record = serial.load(PreprocessedCase, CaseFiles(arrays, files.id).record)
    content = (MAPS_VERSION, record.source, serial.digest(targets), kinds, flat)
    source = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
    if files.is_up_to_date(source):
        return False
    label = open_array(CaseFiles(arrays, files.id).label)[:]
    maps = [make_map(label, kind, targets, record.spacing_mm, flat=flat) for kind in kinds]
    files.write(np.concatenate(maps), source, patch=patch)
    return True


def make_map(
    label: npt.NDArray[np.integer],
    kind: MapKind,
    targets: Targets,
    spacing_mm: Sequence[float],
    *,
    flat: bool,
) -> Map:
    """Return one kind of map of a case.

    Args:
        label: Label indices (z, y, x); ignored voxels and those outside count as background.
        kind: Which.
        targets: What the labels mean.
        spacing_mm: Voxel size.
        flat: Every slice by itself, for networks of two axes.

    Returns:
        (n, z, y, x), n foreground labels or regions; see `selfseg.losses.maps.Maps`.
    """
    made = np.zeros((len(targets.members), *label.shape), np.int16)
    for index, members in enumerate(targets.members):
        mask = np.isin(label, members)
        if flat:
            used = 0
            for z in range(len(mask)):
                part = _make(mask[z], kind, spacing_mm[1:])
                if kind in ("components", "segments"):  # numbers go on from slice to slice
                    part, used = _renumbered(part, used)
                made[index, z] = part
        else:
            made[index] = _make(mask, kind, spacing_mm)
    return made


def signed_distance(mask: Mask, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the distance to the surface in voxels of the finest axis, negative inside.

    Voxels of the mask that touch the background have 0, so inside reaches one voxel less far
    (Kervadec et al. 2019). Without any voxel of the mask, or without any other, it is 0.
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    finest = min(spacing_mm)
    sampling = [spacing / finest for spacing in spacing_mm]
    outside = ndimage.distance_transform_edt(~mask, sampling)
    inside = ndimage.distance_transform_edt(mask, sampling)
    distance: npt.NDArray[np.float32] = (outside - np.maximum(inside - 1, 0)).astype(np.float32)
    return distance


def tube_map(mask: Mask) -> Mask:
    """Return the center line of a mask, widened by two voxels."""
    ball = ndimage.generate_binary_structure(mask.ndim, 1)
    widened: Mask = ndimage.binary_dilation(thin(mask), ball, iterations=TUBE_WIDENING)
    return widened


def segment_map(mask: Mask) -> npt.NDArray[np.int32]:
    """Cut a tubular mask into short pieces (Yan et al. 2018, in two and three axes).

    The center line is cut at its junctions, curves of fewer than four voxels are dropped, longer
    ones cut into pieces of about eight voxels (about two diameters where that is more). A voxel
    belongs to the piece whose center line is nearest, if that is no farther than the radius of the
    tube there plus two voxels.

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
        if len(points) < SHORTEST_SEGMENT:
            continue
        points = _walk(points) + [part.start for part in box]
        length = max(SEGMENT_LENGTH, round(4 * float(np.median(radius[tuple(points.T)]))))
        pieces = max(len(points) // length, 1)
        for piece in np.array_split(points, pieces):
            used += 1
            numbers[tuple(piece.T)] = used
    if not used:
        return numbers
    away, nearest = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
    owner = tuple(nearest)
    ranges = np.where(np.floor(away) <= radius[owner] + RANGE_MARGIN, numbers[owner], 0)
    segments: npt.NDArray[np.int32] = np.where(numbers > 0, -numbers, ranges)
    return segments


def _make(mask: Mask, kind: MapKind, spacing_mm: Sequence[float]) -> Map:
    match kind:
        case "components":
            return _numbered(ndimage.label(mask, np.ones((3,) * mask.ndim))[0])
        case "distance":
            parts = np.rint(signed_distance(mask, spacing_mm) * DISTANCE_PARTS)
            return np.clip(parts, -LARGEST, LARGEST).astype(np.int16)
        case "segments":
            return _numbered(segment_map(mask))
        case "tube":
            return (tube_map(mask)).astype(np.int16)


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
