"""Refine the mean probabilities of a case with a dense CRF, on the image's own grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from selfseg.arrays import Indices, bounding_box
from selfseg.errors import DeviceError
from selfseg.inference.probability_sum import ProbabilitySum
from selfseg.io.geometry import canonical_geometry
from selfseg.io.images import read_image
from selfseg.postprocessing.crf import MARGIN_MM, fitting_method, refine_foreground
from selfseg.preprocessing.case import normalized_crop
from selfseg.records.crf import DenseCrf
from selfseg.records.dataset import Case, Targets
from selfseg.records.geometry import Box, PreprocessedCase
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Triple

Floats = npt.NDArray[np.float32]
Place = tuple[slice, slice, slice]


def refine_sum(
    total: ProbabilitySum,
    case: Case,
    record: PreprocessedCase,
    preprocessing: Preprocessing,
    options: DenseCrf,
    *,
    room_bytes: float,
) -> None:
    """Refine probabilities in place where there is foreground, and around.

    Args:
        total: Mean probabilities on the canonical grid.
        case: Whose image is read again; paths are absolute.
        record: Gives the grid.
        preprocessing: How the image is normalized.
        options: Of the field.
        room_bytes: Memory that the field may take.

    Raises:
        DeviceError: That is not enough.
    """
    paths = [Path(file.path) for file in case.images]
    spacing_mm = canonical_geometry(record.native, record.orientation).spacing_mm
    found = image_around(paths, preprocessing, total.label_map(), spacing_mm)
    if found is None:
        return
    (place, image), targets = found, total.targets
    shape, labels = image.shape[1:], field_labels(targets)
    method, needed = fitting_method(math.prod(shape), labels, len(image), room_bytes)
    if method is None:
        raise DeviceError(
            f"{case.id}: the dense CRF needs {needed / 2**30:.2g} GiB for a box of "
            f"{' × '.join(map(str, shape))} voxels and may take a quarter of the memory, "
            f"{room_bytes / 2**30:.2g} GiB",
            remedy="Raise --max-memory or close other programs; --config NAME predicts without "
            "the selection, and so without the CRF.",
        )
    refined = refine_foreground(
        total.part(place),
        torch.from_numpy(image),
        spacing_mm,
        options,
        exclusive=not targets.regions,
        method=method,
    )
    total.replace(place, refined)


def image_around(
    paths: Sequence[Path], preprocessing: Preprocessing, indices: Indices, spacing_mm: Triple
) -> tuple[Place, Floats] | None:
    """Return the box that a CRF refines around label indices (Z, Y, X), and the image in it.

    Args:
        paths: Files of the image's channels.
        preprocessing: How they are normalized.
        indices: Label indices on the canonical grid of the image.
        spacing_mm: Its voxel size.

    Returns:
        The box, and the normalized image (c, z, y, x) on its own grid; None without foreground.
    """
    image, crop = normalized_crop(read_image(paths), preprocessing)
    place = refined_place(indices, spacing_mm, crop)
    if place is None:
        return None
    z, y, x = (
        slice(part.start - lower, part.stop - lower)
        for part, lower in zip(place, crop.lower, strict=True)
    )
    return place, image[:, z, y, x].copy()


def refined_place(indices: Indices, spacing_mm: Triple, crop: Box) -> Place | None:
    """Return the box of the foreground with the margin of a CRF, inside the box of the image.

    Args:
        indices: Label indices (Z, Y, X) before the CRF.
        spacing_mm: Voxel size.
        crop: Where the image is not zero; elsewhere nothing is foreground.

    Returns:
        None without any foreground there.
    """
    mask = indices > 0
    if not mask.any():
        return None
    margins = [math.ceil(MARGIN_MM / size) for size in spacing_mm]
    z, y, x = (
        slice(max(part.start - margin, outer.start), min(part.stop + margin, outer.stop))
        for part, outer, margin in zip(bounding_box(mask).slices, crop.slices, margins, strict=True)
    )
    return (z, y, x) if all(part.start < part.stop for part in (z, y, x)) else None


def field_labels(targets: Targets) -> int:
    """Return the labels of one field, with background: regions are refined one by one."""
    return 2 if targets.regions else len(targets.labels) + 1
