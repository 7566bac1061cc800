"""One case from canonical image to training array: transpose, crop, normalize, resample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfseg.arrays import nonzero_box
from selfseg.errors import DatasetError
from selfseg.io.images import Image
from selfseg.preprocessing.normalize import normalize
from selfseg.preprocessing.resample import (
    resample_image,
    resample_labels,
    separate_axis,
    target_shape,
)
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Shape3, Triple

# Voxels per label kept to center training patches on: enough for any run, small on disk.
MOST_LOCATIONS, LOCATIONS_SHARE = 10_000, 0.01
LOCATIONS_SEED = 1234
OUTSIDE = -1  # label of background outside the nonzero mask


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case in memory.

    Attributes:
        image: (c, Z, Y, X), working axes and spacing.
        label: (Z, Y, X), −1 outside the nonzero mask; None without a reference.
        locations: For each foreground label voxels (n, 3) that carry it.
        record: What is needed to go back.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16] | None
    locations: tuple[npt.NDArray[np.int32], ...]
    record: PreprocessedCase


def prepare_case(
    case_id: str,
    image: Image,
    reference: npt.NDArray[np.integer] | None,
    options: Preprocessing,
    *,
    num_labels: int = 0,
    source: str = "",
) -> PreparedCase:
    """Preprocess one case.

    Args:
        case_id: Name of the case.
        image: Canonical image with all channels.
        reference: Canonical label indices (Z, Y, X), or None to predict.
        options: The plan's preprocessing.
        num_labels: Number of foreground labels, for the locations.
        source: Digest stored with the result.

    Raises:
        DatasetError: The number of channels is not the plan's.
    """
    found, planned = image.array.shape[0], len(options.normalization)
    if found != planned:
        raise DatasetError(
            f"{case_id}: {found} channels where the plan has {planned}",
            remedy="Give all channels of the plan, in its order.",
        )
    working = image.array.transpose(0, *(axis + 1 for axis in options.axes))
    spacing = _permuted(image.geometry.spacing_mm, options.axes)
    mask, box = nonzero_box(working)
    label = None
    if reference is not None:
        label = reference.transpose(options.axes)[box.slices].astype(np.int16)
        label[(label == 0) & ~mask[box.slices]] = OUTSIDE
    inside = mask[box.slices] if label is None else label >= 0
    cropped = working[(slice(None), *box.slices)]
    normalized = np.stack(
        [
            normalize(np.ascontiguousarray(channel), inside, how)
            for channel, how in zip(cropped, options.normalization, strict=True)
        ]
    )
    new_spacing = _working_spacing(spacing, options)
    shape = target_shape(box.shape, spacing, new_spacing)
    axis = separate_axis(spacing, new_spacing, options.resampling)
    resampled = resample_image(normalized, shape, axis, options.resampling)
    if label is not None:
        label = resample_labels(label, shape, axis, options.resampling)
    locations = () if label is None else find_locations(label, num_labels)
    before = working.shape
    record = PreprocessedCase(
        id=case_id,
        source=source,
        native=image.native,
        orientation=image.orientation,
        axes=options.axes,
        crop=box,
        shape_before_crop=(before[1], before[2], before[3]),
        spacing_before_mm=spacing,
        shape=shape,
        spacing_mm=new_spacing,
        num_locations=tuple(len(rows) for rows in locations),
    )
    return PreparedCase(image=resampled, label=label, locations=locations, record=record)


def find_locations(
    label: npt.NDArray[np.int16], num_labels: int
) -> tuple[npt.NDArray[np.int32], ...]:
    """Return for labels 1 … num_labels a random choice of their voxels, (n, 3), without repeats."""
    random = np.random.RandomState(LOCATIONS_SEED)
    chosen = []
    for index in range(1, num_labels + 1):
        rows = np.argwhere(label == index).astype(np.int32)
        count = max(min(MOST_LOCATIONS, len(rows)), int(np.ceil(LOCATIONS_SHARE * len(rows))))
        keep = random.choice(len(rows), count, replace=False) if len(rows) else slice(0)
        chosen.append(rows[keep])
    return tuple(chosen)


def _working_spacing(spacing_mm: Triple, options: Preprocessing) -> Triple:
    first, second, third = options.spacing_mm
    return (spacing_mm[0] if first is None else first, second, third)


def _permuted(values: Triple, axes: Shape3) -> Triple:
    return (values[axes[0]], values[axes[1]], values[axes[2]])
