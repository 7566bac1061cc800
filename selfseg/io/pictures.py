"""Pictures without a world: PNG, JPEG, BMP through Pillow and TIFF through tifffile.

They have no spacing; a TIFF may have one in a file beside it, `CASE.json` with
`{"spacing": [z, y, x]}`. EXIF rotation is ignored: pixels are taken as stored.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import ImageError
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Triple

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from tifffile import TiffPageSeries

PICTURE_ENDINGS = (".png", ".tiff", ".tif", ".jpeg", ".jpg", ".bmp")
TIFF_ENDINGS = (".tiff", ".tif")

# Pillow refuses pictures above this as decompression bombs: large slides pass (4 GiB of RGB).
_MAX_PIXELS = 2**30
_COPY_AGAIN = "Copy or export the file again."


def read_picture(path: Path, ending: str, *, palette: bool) -> tuple[NDArray[np.generic], Geometry]:
    """Read a picture or a TIFF volume.

    Args:
        path: The file.
        ending: Its lower-case ending.
        palette: True gives the palette's indices (label maps), False its colors.

    Returns:
        Array (c, z, y, x); grey has one channel, color three, and a fourth if transparency
        varies; 1-bit values are 0 and 1. The geometry has spacing 1 unless a file beside a TIFF
        says otherwise, and `is_2d` unless a TIFF has pages.

    Raises:
        ImageError: Damaged, truncated or of a kind not supported.
    """
    try:
        is_tiff = ending in TIFF_ENDINGS
        array = _read_tiff(path) if is_tiff else _read_pillow(path, palette=palette)
    except ImageError:
        raise
    # The decoders of broken files raise nearly anything: OSError, ValueError, SyntaxError,
    # struct.error, KeyError, zlib.error, DecompressionBombError.
    except Exception as error:
        raise ImageError(
            f"{path}: damaged, truncated or not supported ({error})", remedy=_COPY_AGAIN
        ) from error
    array = _without_plain_alpha(array)
    _, z, y, x = array.shape
    spacing = _spacing_beside(path) if ending in TIFF_ENDINGS else (1.0, 1.0, 1.0)
    if z == 1:
        spacing = (1.0, *spacing[1:])
    return array, Geometry(shape=(z, y, x), spacing_mm=spacing, is_2d=z == 1)


def write_picture(array: NDArray[np.generic], geometry: Geometry, path: Path) -> None:
    """Write a native (z, y, x) array; a TIFF with spacing gets `CASE.json` beside it.

    Raises:
        ImageError: The format cannot hold the array without loss.
    """
    ending = path.suffix.lower()
    flat = array[0] if geometry.is_2d else array
    if ending in TIFF_ENDINGS:
        _write_tiff(flat, geometry, path)
        return
    widest = {".png": 2, ".bmp": 1}.get(ending, 0)
    if flat.ndim != 2 or flat.dtype.kind != "u" or flat.dtype.itemsize > widest:
        raise ImageError(
            f"{path.name}: {ending} cannot hold {flat.dtype} of {flat.ndim} dimensions exactly",
            remedy="Write .nii.gz, .mha or .tif.",
        )
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(flat)).save(path)


def _read_pillow(path: Path, *, palette: bool) -> NDArray[np.generic]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    with Image.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ImageError(
                f"{path}: an animation of {getattr(picture, 'n_frames', 1)} pictures",
                remedy="Store one picture a file, or a volume as TIFF.",
            )
        picture.load()
        if _is_deep_color_png(path):
            return _read_with_itk(path)
        return _channels_first(np.asarray(_converted(picture, palette=palette)))


def _converted(picture: Picture, *, palette: bool) -> Picture:
    """Return the picture in a mode whose array is what is meant."""
    if picture.mode == "P" and palette:
        return picture
    if picture.mode in ("P", "PA"):
        return picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return picture.convert("RGB")
    if picture.mode in ("La", "RGBa"):
        return picture.convert(picture.mode.upper())
    return picture


def _is_deep_color_png(path: Path) -> bool:
    """Tell whether a PNG has 16 bits a color, which Pillow would cut to 8 (PNG, IHDR chunk)."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return head.startswith(b"\x89PNG") and head[24] == 16 and head[25] in (2, 4, 6)


def _read_with_itk(path: Path) -> NDArray[np.generic]:
    """Read what Pillow and tifffile cannot: 16-bit color, LZW."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    image = SimpleITK.ReadImage(str(path))
    array: NDArray[np.generic] = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    channels = np.moveaxis(array, -1, 0)
    return channels if channels.ndim == 4 else channels[:, np.newaxis]


def _read_tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    with _damage_found(path), tifffile.TiffFile(path) as file:
        shapes = {series.shape for series in file.series}
        if len(shapes) != 1:
            raise ImageError(
                f"{path}: {len(file.series)} images of different size in one file",
                remedy="Store each image in a file of its own.",
            )
        if len(file.series) > 1:
            array = np.stack([_tiff_pixels(series, path) for series in file.series])
            return _arranged(array, f"Z{file.series[0].axes}", path)
        # The levels of a pyramid are not series: level 0 is the full size.
        return _arranged(_tiff_pixels(file.series[0], path), file.series[0].axes, path)


@contextmanager
def _damage_found(path: Path) -> Iterator[None]:
    """Turn the errors that tifffile only logs (a broken chain of pages) into an ImageError."""
    errors: list[str] = []
    thread = threading.get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and record.thread == thread:
            errors.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)
    if errors:
        raise ImageError(f"{path}: damaged or truncated ({errors[0]})", remedy=_COPY_AGAIN)


def _tiff_pixels(series: TiffPageSeries, path: Path) -> NDArray[np.generic]:
    """Return the pixels of a series; compressions that tifffile lacks go through ITK."""
    try:
        array: NDArray[np.generic] = series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        array = np.moveaxis(_read_with_itk(path), 0, -1).reshape(series.shape)
    return array


def _arranged(array: NDArray[np.generic], axes: str, path: Path) -> NDArray[np.generic]:
    """Return (c, z, y, x) from TIFF axes: Y, X; pages Z (or unnamed Q, I); colors S, C."""
    kept = [axis for axis in range(array.ndim) if array.shape[axis] > 1 or axes[axis] in "YX"]
    array = array.reshape([array.shape[axis] for axis in kept])
    names = re.sub("[QI]", "Z", "".join(axes[axis] for axis in kept)).replace("S", "C")
    if (
        len(set(names)) != len(names)
        or not set(names) <= set("CZYX")
        or not {"Y", "X"} <= set(names)
    ):
        raise ImageError(
            f"{path}: TIFF axes {axes} ({'×'.join(map(str, array.shape))}) are not supported",
            remedy="Store one volume (pages) or one picture (grey or color) a file.",
        )
    present = [names.index(axis) for axis in "CZYX" if axis in names]
    missing = tuple(position for position, axis in enumerate("CZYX") if axis not in names)
    return np.expand_dims(array.transpose(present), missing)


def _channels_first(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (c, 1, y, x) from Pillow's (y, x) or (y, x, c)."""
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    array = array[..., np.newaxis] if array.ndim == 2 else array
    return np.moveaxis(array, -1, 0)[:, np.newaxis]


def _without_plain_alpha(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Drop a second or fourth channel that is the same everywhere and opaque."""
    if array.shape[0] not in (2, 4) or array.dtype.kind != "u":
        return array
    opaque = 2 ** (8 * array.dtype.itemsize) - 1
    return array[:-1] if bool((array[-1] == opaque).all()) else array


def spacing_file(path: Path) -> Path:
    """Return where the spacing of a TIFF may stand: `CASE.json` beside `CASE_0000.tif`."""
    return path.with_name(re.sub(r"_\d{4}$", "", path.stem) + ".json")


def _spacing_beside(path: Path) -> Triple:
    """Return the spacing from `CASE.json` beside `CASE_0000.tif` or `CASE.tif`, else ones."""
    beside = spacing_file(path)
    if not beside.is_file():
        return (1.0, 1.0, 1.0)
    try:
        z, y, x = (float(value) for value in json.loads(beside.read_text("utf-8"))["spacing"])
        if not all(0 < value < float("inf") for value in (z, y, x)):
            raise ValueError("not positive")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(
            f"{beside}: no usable spacing ({error})",
            remedy='Write {"spacing": [z, y, x]} with three positive numbers, or remove the file.',
        ) from error
    return (z, y, x)


def _write_tiff(array: NDArray[np.generic], geometry: Geometry, path: Path) -> None:
    import tifffile

    axes = "YX" if array.ndim == 2 else "ZYX"
    tifffile.imwrite(
        path,
        np.ascontiguousarray(array),
        compression="zlib",
        photometric="minisblack",
        metadata={"axes": axes},
    )
    if geometry.spacing_mm != (1.0, 1.0, 1.0):
        text = json.dumps({"spacing": list(geometry.spacing_mm)}) + "\n"
        path.with_suffix(".json").write_text(text, encoding="utf-8")
