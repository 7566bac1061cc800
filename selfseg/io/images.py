"""Images and label maps of every format: read to canonical axes, written back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import DatasetError, GeometryError, ImageError
from selfseg.files import arriving
from selfseg.io.geometry import (
    canonical_geometry,
    closest_orientation,
    grid_differences,
    to_canonical,
    to_native,
)
from selfseg.io.pictures import PICTURE_ENDINGS, read_picture, write_picture
from selfseg.io.volumes import VOLUME_ENDINGS, read_volume, write_volume_file
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation

__all__ = [
    "IMAGE_ENDINGS",
    "Image",
    "case_name",
    "grid_differences",
    "image_ending",
    "label_indices",
    "read_image",
    "read_label_map",
    "write_label_map",
    "write_volume",
]

IMAGE_ENDINGS: tuple[str, ...] = (*VOLUME_ENDINGS, *PICTURE_ENDINGS)

# Scaling with a float32 slope leaves whole labels this close to a whole number.
_WHOLE_NUMBER_TOLERANCE = 1e-3
# Above this, undeclared values are looked up by search instead of in a table.
_LARGEST_TABLE = 1 << 16


@dataclass(frozen=True)
class Image:
    """An image in canonical axes.

    Attributes:
        array: (c, z, y, x); float32 for images, an integer type for label maps.
        geometry: Geometry of the canonical array.
        native: Geometry as stored in the (first) file.
        orientation: How native became canonical.
    """

    array: np.ndarray
    geometry: Geometry
    native: Geometry
    orientation: Orientation


def image_ending(path: Path) -> str:
    """Return the file's known ending in lower case (`.nii.gz`, `.png`), or an empty string."""
    name = path.name.lower()
    return next((ending for ending in IMAGE_ENDINGS if name.endswith(ending)), "")


def case_name(path: Path) -> str:
    """Return the file name without its image ending; a channel number stays in it."""
    ending = image_ending(path)
    return path.name[: -len(ending)] if ending else path.stem


def read_image(paths: Sequence[Path]) -> Image:
    """Read the files of one case; their channels are concatenated in order.

    Returns:
        Canonical float32 image; `native` and `orientation` are those of the first file.

    Raises:
        ImageError: A file is missing, damaged, truncated or not supported.
        GeometryError: The files do not lie on one grid.
    """
    if not paths:
        raise ValueError("read_image needs at least one path")
    parts = [_read_canonical(path, palette=False) for path in paths]
    complaints = [
        f"{path.name}: {difference}"
        for path, part in zip(paths[1:], parts[1:], strict=True)
        for difference in grid_differences(parts[0].geometry, part.geometry)
    ]
    if complaints:
        raise GeometryError(
            f"{paths[0]}: channels on different grids; against the first, {'; '.join(complaints)}",
            remedy="Resample the channels of a case to one grid.",
        )
    first = parts[0]
    channels = sum(part.array.shape[0] for part in parts)
    array = np.empty((channels, *first.geometry.shape), np.float32)
    # What float32 cannot hold becomes infinite, and is found by the check of values.
    with np.errstate(over="ignore"):
        np.concatenate([part.array for part in parts], out=array, casting="unsafe")
    return Image(array, first.geometry, first.native, first.orientation)


def read_label_map(path: Path) -> Image:
    """Read a label map; values stay as they are in the file.

    Returns:
        Canonical int32 (int64 if needed) array (1, z, y, x) with its geometries.

    Raises:
        ImageError: Unreadable, several channels, or values that are not whole numbers.
    """
    part = _read_canonical(path, palette=True)
    array = _single_channel(part.array, path)
    if array.dtype.kind == "f":
        array = _whole_numbers(array, path)
    wide = array.dtype.itemsize > 4 or array.dtype == np.uint32
    if wide and array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
        array = array.astype(np.int64)
    else:
        array = array.astype(np.int32)
    return Image(np.ascontiguousarray(array), part.geometry, part.native, part.orientation)


def label_indices(
    values: NDArray[np.generic], labels: Sequence[Label], ignore: int | None = None
) -> NDArray[np.int16]:
    """Turn file values into indices: 0 background, 1..K in the order of `labels`.

    The value `ignore` of voxels that are not annotated becomes K + 1.

    Raises:
        DatasetError: Values that are neither 0 nor declared; the message names them.
    """
    declared = np.array(_declared_values(labels, ignore), np.int64)
    if values.size and values.min() >= 0 and max(values.max(), declared.max()) < _LARGEST_TABLE:
        table = np.full(_LARGEST_TABLE, -1, np.int16)
        table[declared] = np.arange(declared.size)
        indices: NDArray[np.int16] = table[values]
    else:
        order = np.argsort(declared)
        place = np.searchsorted(declared[order], values).clip(max=declared.size - 1)
        known = declared[order][place] == values
        indices = np.where(known, order[place], -1).astype(np.int16)
    if indices.size and indices.min() < 0:
        undeclared = sorted({int(value) for value in np.unique(values[indices < 0])})
        shown = ", ".join(map(str, undeclared[:10])) + (", …" if len(undeclared) > 10 else "")
        known_labels = [*labels, *([] if ignore is None else [Label(name="ignore", value=ignore)])]
        names = ", ".join(f"{label.value} {label.name}" for label in known_labels)
        raise DatasetError(
            f"label values not declared in dataset.json: {shown} (declared: 0 background, {names})",
            remedy="Declare them under 'labels' in dataset.json, or correct the label file.",
        )
    return indices


def write_label_map(
    indices: NDArray[np.generic],
    labels: Sequence[Label],
    *,
    native: Geometry,
    orientation: Orientation,
    path: Path,
    ignore: int | None = None,
) -> None:
    """Write a canonical (z, y, x) array of label indices on the native grid.

    Values are the labels' own, and `ignore` for the index above theirs, in the smallest unsigned
    type; the format follows the ending.

    Raises:
        ImageError: The format cannot hold the label map, or it cannot be written.
    """
    declared = _declared_values(labels, ignore)
    values = np.array(declared, np.min_scalar_type(max(1, *declared)))
    _write(values[indices], native, orientation, path)


def write_volume(
    array: NDArray[np.floating],
    *,
    native: Geometry,
    orientation: Orientation,
    path: Path,
) -> None:
    """Write a canonical (z, y, x) float32 array on the native grid.

    Raises:
        ImageError: The format cannot hold float32 (PNG, JPEG, BMP), or it cannot be written.
    """
    _write(array.astype(np.float32, copy=False), native, orientation, path)


def _declared_values(labels: Sequence[Label], ignore: int | None) -> list[int]:
    """Return the file value of each index."""
    return [0, *(label.value for label in labels), *([] if ignore is None else [ignore])]


def _read_canonical(path: Path, *, palette: bool) -> Image:
    """Read one file in the type it is stored in."""
    ending = image_ending(path)
    if not path.is_file() or not ending:
        finding = "format not supported" if path.is_file() else "no such file"
        raise ImageError(
            f"{path}: {finding}", remedy=f"Supported endings: {' '.join(IMAGE_ENDINGS)}."
        )
    if ending in VOLUME_ENDINGS:
        array, native = read_volume(path, ending)
    else:
        array, native = read_picture(path, ending, palette=palette)
    orientation = closest_orientation(native)
    geometry = canonical_geometry(native, orientation)
    return Image(to_canonical(array, orientation), geometry, native, orientation)


def _single_channel(array: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    """Return (1, z, y, x): the only channel, or a grey picture stored as color."""
    channels = array.shape[0]
    is_color = channels in (3, 4) and image_ending(path) in PICTURE_ENDINGS
    if channels == 1 or (is_color and bool((array[1:3] == array[:1]).all())):
        return array[:1]
    raise ImageError(
        f"{path}: a label map with {channels} channels",
        remedy="Store one integer a voxel; overlapping labels and color codes are not supported.",
    )


def _whole_numbers(array: NDArray[np.generic], path: Path) -> NDArray[np.int64]:
    """Return a float label map as integers."""
    values = np.asarray(array, np.float64)
    finite = np.isfinite(values)
    rounded = np.rint(np.where(finite, values, 0.0))
    odd = ~finite | (np.abs(values - rounded) > _WHOLE_NUMBER_TOLERANCE)
    if odd.any():
        examples = ", ".join(f"{value:.4g}" for value in np.unique(values[odd])[:4])
        raise ImageError(
            f"{path}: a label map with values that are no whole numbers ({examples})",
            remedy="Threshold the soft or scaled mask and store integers.",
        )
    return rounded.astype(np.int64)


def _write(
    array: NDArray[np.generic], native: Geometry, orientation: Orientation, path: Path
) -> None:
    """Write a canonical (z, y, x) array on its native grid, all or nothing."""
    stored = to_native(array, orientation)
    if stored.shape != native.shape:
        raise ValueError(f"array of {stored.shape} voxels for a grid of {native.shape}")
    if not image_ending(path):
        raise ImageError(
            f"{path}: format not supported", remedy=f"Supported endings: {' '.join(IMAGE_ENDINGS)}."
        )
    with arriving(path) as temporary:
        if image_ending(path) in VOLUME_ENDINGS:
            write_volume_file(stored, native, temporary)
        else:
            write_picture(stored, native, temporary)
