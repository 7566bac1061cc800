"""How large an image is, from its header: what has to be known before its voxels are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from selfseg.errors import ImageError
from selfseg.io.images import image_ending
from selfseg.io.pictures import TIFF_ENDINGS
from selfseg.io.volumes import VOLUME_ENDINGS, read_volume_header
from selfseg.records.geometry import Geometry

# Of a picture: a palette may turn out to be colors with transparency; a value has 1, 2 or 4 bytes.
MOST_CHANNELS, MOST_BYTES = 4, 4


@dataclass(frozen=True)
class ImageSize:
    """What reading a case will take.

    Attributes:
        channels: Of all files together, at most.
        native: Geometry of the first file; of pictures without the spacing beside them.
        file_bytes: Bytes of the voxels as they are stored, all files together.
        largest_file_bytes: The same of the largest file.
    """

    channels: int
    native: Geometry
    file_bytes: int
    largest_file_bytes: int


def read_size(paths: Sequence[Path]) -> ImageSize:
    """Return the size of a case's images without reading their voxels.

    Raises:
        ImageError: A header cannot be read.
    """
    parts = [_of_file(path) for path in paths]
    sizes = [part.file_bytes for part in parts]
    channels = sum(part.channels for part in parts)
    return ImageSize(channels, parts[0].native, sum(sizes), max(sizes))


def _of_file(path: Path) -> ImageSize:
    ending = image_ending(path)
    if not path.is_file() or not ending:
        raise ImageError(f"{path}: no such image", remedy="Give a file of a supported format.")
    if ending in VOLUME_ENDINGS:
        native, channels, voxel_bytes = read_volume_header(path, ending)
    else:
        native, channels, voxel_bytes = _of_picture(path, is_tiff=ending in TIFF_ENDINGS)
    size = channels * prod(native.shape) * voxel_bytes
    return ImageSize(channels, native, size, size)


def _of_picture(path: Path, *, is_tiff: bool) -> tuple[Geometry, int, int]:
    """Return geometry, channels and bytes of a value; all pages of a TIFF count as slices."""
    try:
        return _of_tiff(path) if is_tiff else _of_pillow(path)
    # As in pictures.py: the decoders of broken files raise nearly anything.
    except Exception as error:
        raise ImageError(
            f"{path}: damaged, truncated or not supported ({error})",
            remedy="Copy or export the file again.",
        ) from error


def _of_tiff(path: Path) -> tuple[Geometry, int, int]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        first = file.series[0]
        sizes = {str(axis): int(n) for axis, n in zip(first.axes, first.shape, strict=True)}
        values, voxel_bytes = sum(prod(part.shape) for part in file.series), first.dtype.itemsize
    channels, y, x = sizes.get("S", sizes.get("C", 1)), sizes["Y"], sizes["X"]
    z = max(1, values // (y * x * channels))
    geometry = Geometry(shape=(z, y, x), spacing_mm=(1.0, 1.0, 1.0), is_2d=z == 1)
    return geometry, channels, voxel_bytes


def _of_pillow(path: Path) -> tuple[Geometry, int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        x, y = picture.size
        channels = MOST_CHANNELS if picture.mode.startswith("P") else len(picture.getbands())
    geometry = Geometry(shape=(1, y, x), spacing_mm=(1.0, 1.0, 1.0), is_2d=True)
    return geometry, channels, MOST_BYTES
