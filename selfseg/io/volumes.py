"""Medical volumes (NIfTI, NRRD, MetaImage) through SimpleITK, which is imported when needed."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import ImageError
from selfseg.io import nifti
from selfseg.io.geometry import GRID_TOLERANCE, triple
from selfseg.io.skewed import nearest_grid
from selfseg.records.geometry import Geometry

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

_READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
log = logging.getLogger(__name__)

_STDERR_LOCK = threading.Lock()


def read_volume(path: Path, ending: str) -> tuple[NDArray[np.generic], Geometry]:
    """Read a 2D, 3D or 4D file (the fourth axis and vector components become channels).

    Returns:
        Native array (c, z, y, x) in the type of the file, and its geometry.

    Raises:
        ImageError: The file is damaged, truncated or not supported.
    """
    # NIfTI first: its own reader finds damage that ITK would pass over.
    array = nifti.read_voxels(path) if _READERS[ending] == "NiftiImageIO" else None
    try:
        with _opened(path, ending) as reader:
            if array is None:
                array = _arranged(_itk(), reader, path)
    except _SkewedError as error:
        if array is None:
            raise
        geometry = _straightened(nifti.read_header(path), error)
        _tell_of_straightening(path)
        return array, geometry
    return array, _geometry(reader, array.shape[1:], path)


def read_volume_header(path: Path, ending: str) -> tuple[Geometry, int, int]:
    """Return the geometry of a file, its channels, and the bytes of a value.

    Raises:
        ImageError: The header is damaged or not supported.
    """
    itk = _itk()
    try:
        return _read_header(itk, path, ending)
    except _SkewedError as error:
        header = nifti.read_header(path)
        volumes = header.sizes[3] if len(header.sizes) == 4 else 1
        geometry = _straightened(header, error)
        return geometry, header.components * volumes, header.dtype.itemsize


def _read_header(itk: ModuleType, path: Path, ending: str) -> tuple[Geometry, int, int]:
    with _opened(path, ending) as reader:
        pixel = itk.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    sizes = (*reader.GetSize(), 1, 1)
    voxel_bytes = itk.GetArrayViewFromImage(pixel).dtype.itemsize
    channels = reader.GetNumberOfComponents() * (sizes[3] if reader.GetDimension() == 4 else 1)
    return _geometry(reader, sizes[2::-1], path), channels, voxel_bytes


def write_volume_file(array: NDArray[np.generic], geometry: Geometry, path: Path) -> None:
    """Write a native (z, y, x) array with exactly this geometry; 2D where the geometry is.

    Raises:
        ImageError: ITK cannot write it.
    """
    itk = _itk()
    flat = geometry.is_2d
    image = itk.GetImageFromArray(np.ascontiguousarray(array[0] if flat else array))
    axes = 2 if flat else 3
    image.SetSpacing(geometry.spacing_mm[::-1][:axes])
    image.SetOrigin(geometry.origin_mm[:axes])
    columns = np.array(geometry.direction)[:, ::-1][:axes, :axes]
    image.SetDirection([float(value) for value in columns.ravel()])
    try:
        itk.WriteImage(image, str(path), useCompression=path.suffix not in (".nii", ".mhd"))
    except RuntimeError as error:
        raise ImageError(
            f"{path.name}: cannot be written ({_reason(error)})",
            remedy="Check the disk space and the permissions of the output folder.",
        ) from error


def _itk() -> ModuleType:
    """Return SimpleITK with its warnings on stderr switched off."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK  # type: ignore[no-any-return]


class _SkewedError(ImageError):
    """The axes of a NIfTI file are not at right angles."""


def _straightened(header: nifti.Header, error: _SkewedError) -> Geometry:
    """Return the rectangular grid of a file that is skewed by no more than rounding; else raise."""
    x, y, z, *_ = (*header.sizes, 1)
    geometry = None
    if len(header.sizes) > 2:
        geometry = nearest_grid(np.reshape(header.sform, (3, 4)), (x, y, z))
    if geometry is None:
        raise error
    return geometry


@cache  # once a file: it is read again and again
def _tell_of_straightening(path: Path) -> None:
    log.warning(
        "%s: the axes of the grid are not quite at right angles; taken as if they were, which "
        "moves no voxel by more than %.0f %% of its edge",
        path,
        100 * GRID_TOLERANCE,
    )


def _unreadable(path: Path, reason: str) -> ImageError:
    if "orthonormal" in reason:
        return _SkewedError(
            f"{path}: the axes of the grid are not at right angles (sheared or missing sform); a "
            "tilted CT gantry is the usual cause",
            remedy="Resample image and label map to a rectangular grid with nibabel: datasets.md, "
            "'Convert your own data'.",
        )
    return ImageError(
        f"{path}: damaged, truncated or not supported ({reason})",
        remedy="Copy or export the file again.",
    )


def _arranged(itk: ModuleType, reader: object, path: Path) -> NDArray[np.generic]:
    """Return (c, z, y, x) from what ITK reads."""
    dimension: int = reader.GetDimension()  # type: ignore[attr-defined]
    if dimension not in (2, 3, 4):
        raise ImageError(
            f"{path}: a {dimension}D image; 2D, 3D and 4D are supported",
            remedy="Split the file into one 3D image a channel.",
        )
    image = reader.Execute()  # type: ignore[attr-defined]
    array: NDArray[np.generic] = itk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise ImageError(
            f"{path}: complex values are not supported",
            remedy="Store magnitude (and phase) as channels.",
        )
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    *lead, y, x, components = array.shape
    volumes, z = (1, 1, *lead)[-2:]
    split = array.reshape(volumes, z, y, x, components)
    return np.moveaxis(split, -1, 1).reshape(volumes * components, z, y, x)


def _geometry(reader: object, shape: tuple[int, ...], path: Path) -> Geometry:
    """Return the native geometry that ITK found in the header."""
    dimension: int = reader.GetDimension()  # type: ignore[attr-defined]
    axes = min(dimension, 3)
    matrix = np.array(reader.GetDirection()).reshape(dimension, dimension)  # type: ignore[attr-defined]
    direction = np.eye(3)
    direction[:axes, :axes] = matrix[:axes, :axes]
    direction = direction[:, ::-1]
    spacing = np.ones(3)
    spacing[:axes] = reader.GetSpacing()[:axes]  # type: ignore[attr-defined]
    origin = np.zeros(3)
    origin[:axes] = reader.GetOrigin()[:axes]  # type: ignore[attr-defined]
    known = np.isfinite(spacing).all() and np.isfinite(origin).all() and np.isfinite(matrix).all()
    if not known or spacing.min() <= 0:
        raise ImageError(
            f"{path}: impossible geometry (spacing {spacing.tolist()}, origin {origin.tolist()})",
            remedy="Export the image again with its voxel size.",
        )
    z, y, x = shape
    return Geometry(
        shape=(z, y, x),
        spacing_mm=triple(spacing[::-1]),
        origin_mm=triple(origin),
        direction=(triple(direction[0]), triple(direction[1]), triple(direction[2])),
        is_2d=axes == 2,
    )


def _reason(error: RuntimeError) -> str:
    """Return the last line of ITK's message without its own location."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else "unknown reason"


@contextmanager
def _opened(path: Path, ending: str) -> Iterator[ImageFileReader]:
    """Give ITK's reader of a file, header read; what it finds wrong is an ImageError."""
    reader = _itk().ImageFileReader()
    reader.SetImageIO(_READERS[ending])
    reader.SetFileName(str(path))
    try:
        # MetaImage writes to stderr past ITK's switch.
        with _no_stderr() if _READERS[ending] == "MetaImageIO" else nullcontext():
            reader.ReadImageInformation()
            yield reader
    except RuntimeError as error:
        raise _unreadable(path, _reason(error)) from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what C++ writes to stderr from the user; the exception says the same."""
    with _STDERR_LOCK, tempfile.TemporaryFile() as sink:
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
