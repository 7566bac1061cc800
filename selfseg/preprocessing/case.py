"""One case from canonical image to training array: transpose, crop, normalize, resample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from selfseg.arrays import nonzero_box
from selfseg.errors import DatasetError
from selfseg.io.images import Image
from selfseg.preprocessing.axes import to_working, working_axes
from selfseg.preprocessing.normalize import normalize
from selfseg.preprocessing.resample import (
    resample_channel,
    resample_labels,
    separate_axis,
    target_shape,
)
from selfseg.records.dataset import Targets
from selfseg.records.geometry import Box, PreprocessedCase
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Shape3
from selfseg.words import counted

N = TypeVar("N", int, float)
Rows = npt.NDArray[np.int32]

# Voxels per label kept to center training patches on: enough for any run, small on disk.
MOST_LOCATIONS, LOCATIONS_SHARE = 10_000, 0.01
LOCATIONS_SEED = 1234
OUTSIDE = -1  # label of background outside the nonzero mask
NOTHING = Targets(labels=())
NO_ROWS: Rows = np.zeros((0, 3), np.int32)


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case in memory.

    Attributes:
        image: (c, Z, Y, X), working axes and spacing.
        label: (Z, Y, X), −1 outside the nonzero mask; None without a reference.
        locations: For each label, or each region, voxels (n, 3) that carry it.
        record: What is needed to go back.
        annotated: Annotated voxels (n, 3); none where all voxels are annotated.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16] | None
    locations: tuple[Rows, ...]
    record: PreprocessedCase
    annotated: Rows = field(default_factory=lambda: NO_ROWS)


@dataclass(frozen=True)
class CroppedCase:
    """What several preprocessings of a case that order its axes alike have in common.

    Attributes:
        image: (c, z, y, x) in working order, as it was read.
        label: (z, y, x), −1 outside the nonzero mask; None without a reference.
        inside: Where intensities count, (z, y, x).
        box: That all three are, of the whole image.
    """

    image: npt.NDArray[np.floating]
    label: npt.NDArray[np.int16] | None
    inside: npt.NDArray[np.bool_]
    box: Box


def prepare_case(
    case_id: str,
    image: Image,
    reference: npt.NDArray[np.integer] | None,
    options: Preprocessing,
    *,
    targets: Targets = NOTHING,
    source: str = "",
) -> PreparedCase:
    """Preprocess one case.

    Args:
        case_id: Name of the case.
        image: Canonical image with all channels.
        reference: Canonical label indices (Z, Y, X), or None to predict.
        options: The plan's preprocessing.
        targets: What the reference shows.
        source: Digest stored with the result.

    Raises:
        DatasetError: The number of channels is not the plan's, or image and reference differ
            in shape.
    """
    cropped = crop_case(case_id, image, reference, options, targets)
    return prepare_cropped(case_id, image, cropped, options, targets=targets, source=source)


def crop_case(
    case_id: str,
    image: Image,
    reference: npt.NDArray[np.integer] | None,
    options: Preprocessing,
    targets: Targets,
) -> CroppedCase:
    """Bring a case to working axes and crop it to what is not zero; see `prepare_case`."""
    _check(case_id, image, reference, options)
    axes, flips = working_axes(image.orientation, options)
    working = to_working(image.array, axes, flips)
    mask, box = nonzero_box(working)
    inside, label = mask[box.slices], None
    if reference is not None:
        label = to_working(reference, axes, flips)[box.slices].astype(np.int16, order="C")
        label[(label == 0) & ~inside] = OUTSIDE
        # Foreground outside the mask counts as inside, as in nnU-Net; what is not annotated does
        # not, or normalization would differ from that of an image without annotation.
        inside = inside | ((label > 0) & (label <= len(targets.labels)))
    return CroppedCase(working[(slice(None), *box.slices)], label, inside, box)


def prepare_cropped(
    case_id: str,
    image: Image,
    cropped: CroppedCase,
    options: Preprocessing,
    *,
    targets: Targets = NOTHING,
    source: str = "",
) -> PreparedCase:
    """Normalize and resample a case that was cropped with the same order of axes."""
    record = _record(case_id, image, options, cropped.box, source)
    axis = separate_axis(
        record.spacing_before_mm,
        record.spacing_mm,
        options.resampling,
        is_2d=record.native.is_2d,
    )
    label = None
    locations: tuple[Rows, ...] = ()
    annotated = NO_ROWS
    if cropped.label is not None:
        label = resample_labels(
            cropped.label, record.shape, axis, options.resampling, targets.ignore_index
        )
        locations = find_locations(label, targets.members)
        annotated = find_annotated(label, targets)
    resampled = np.empty((len(cropped.image), *record.shape), np.float32)
    for index, how in enumerate(options.normalization):
        channel = np.ascontiguousarray(cropped.image[index], np.float32)
        channel = normalize(channel, cropped.inside, how)
        resampled[index] = resample_channel(channel, record.shape, axis, options.resampling)
    counts = {
        "num_locations": tuple(len(rows) for rows in locations),
        "num_annotated": len(annotated),
    }
    record = record.model_copy(update=counts)
    return PreparedCase(resampled, label, locations, record, annotated)


def normalized_crop(image: Image, options: Preprocessing) -> tuple[npt.NDArray[np.float32], Box]:
    """Return a canonical image normalized on its own grid, (c, z, y, x), and the box that it is.

    As for prediction: cropped to what is not zero, without a reference, not resampled.
    """
    mask, box = nonzero_box(image.array)
    inside = mask[box.slices]
    result = np.empty((len(image.array), *inside.shape), np.float32)
    for index, how in enumerate(options.normalization):
        channel = np.ascontiguousarray(image.array[(index, *box.slices)], np.float32)
        result[index] = normalize(channel, inside, how)
    return result, box


def find_locations(
    label: npt.NDArray[np.int16], members: Sequence[Sequence[int]]
) -> tuple[Rows, ...]:
    """Return a random choice of voxels, (n, 3), without repeats, for each of several groups.

    Args:
        label: (Z, Y, X).
        members: Labels of each group; groups may share labels.
    """
    random = np.random.RandomState(LOCATIONS_SEED)
    largest = max((index for group in members for index in group), default=0)
    voxels = np.flatnonzero((label > 0) & (label <= largest))
    values = label.ravel()[voxels]
    order = np.argsort(values, kind="stable")  # each label's voxels stay in the array's order
    voxels, values = voxels[order], values[order]
    ends = np.searchsorted(values, np.arange(1, largest + 2))
    chosen = []
    for group in members:
        found = np.concatenate([voxels[ends[i - 1] : ends[i]] for i in group])
        chosen.append(_choice(found, label.shape, random))
    return tuple(chosen)


def find_annotated(label: npt.NDArray[np.int16], targets: Targets) -> Rows:
    """Return a random choice of the annotated voxels, (n, 3); none where all are annotated."""
    if targets.ignore_index is None:
        return NO_ROWS
    found = np.flatnonzero(label != targets.ignore_index)
    return _choice(found, label.shape, np.random.RandomState(LOCATIONS_SEED))


def _choice(
    voxels: npt.NDArray[np.intp], shape: tuple[int, ...], random: np.random.RandomState
) -> Rows:
    """Return as many of some voxels as are kept on disk, (n, 3), in random order."""
    total = len(voxels)
    count = max(min(MOST_LOCATIONS, total), int(np.ceil(LOCATIONS_SHARE * total)))
    keep = random.choice(total, count, replace=False) if total else slice(0)
    return np.stack(np.unravel_index(voxels[keep], shape), axis=1).astype(np.int32)


def _check(
    case_id: str,
    image: Image,
    reference: npt.NDArray[np.integer] | None,
    options: Preprocessing,
) -> None:
    found, planned = image.array.shape[0], len(options.normalization)
    if found != planned:
        raise DatasetError(
            f"{case_id}: {counted(found, 'channel')} where the plan has {planned}",
            remedy="Give all channels of the plan, in its order.",
        )
    shape = image.array.shape[1:]
    if reference is not None and reference.shape != shape:
        raise DatasetError(
            f"{case_id}: the reference has shape {reference.shape}, the image {shape}",
            remedy="Resample the reference to the grid of the image.",
        )


def _record(
    case_id: str, image: Image, options: Preprocessing, box: Box, source: str
) -> PreprocessedCase:
    axes, flips = working_axes(image.orientation, options)
    before = _permuted(image.geometry.spacing_mm, axes)
    first, second, third = options.spacing_mm
    after = (before[0] if first is None else first, second, third)
    shape = image.array.shape
    return PreprocessedCase(
        id=case_id,
        source=source,
        native=image.native,
        orientation=image.orientation,
        axes=axes,
        flips=flips,
        crop=box,
        shape_before_crop=_permuted((shape[1], shape[2], shape[3]), axes),
        spacing_before_mm=before,
        shape=target_shape(box.shape, before, after),
        spacing_mm=after,
    )


def _permuted(values: tuple[N, N, N], axes: Shape3) -> tuple[N, N, N]:
    return (values[axes[0]], values[axes[1]], values[axes[2]])
