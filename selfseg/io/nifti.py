"""Voxels of NIfTI-1 files, complete or refused: ITK fills what is missing in silence.

Geometry stays ITK's business, but for what it refuses (`skewed.py`). Layout of the header: NIfTI-1
standard, nifti1.h (Cox et al. 2004).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import ImageError

_HEADER_BYTES = 348
_NIFTI2_HEADER_BYTES = 540
_READ_BYTES = 1 << 22

# NIfTI datatype code → NumPy type and values per voxel (RGB and RGBA have several).
_TYPES = {
    2: ("u1", 1),
    4: ("i2", 1),
    8: ("i4", 1),
    16: ("f4", 1),
    64: ("f8", 1),
    128: ("u1", 3),
    256: ("i1", 1),
    512: ("u2", 1),
    768: ("u4", 1),
    1024: ("i8", 1),
    1280: ("u8", 1),
    2304: ("u1", 4),
}
_REEXPORT = "Export the image again as one 3D NIfTI-1 file, or as NRRD or MHA."
_COPY_AGAIN = "Copy or export the file again."


@dataclass(frozen=True)
class Header:
    """What is needed to find the voxels: sizes in ITK order, type, place, scaling.

    `sform` are its three rows, from voxel indices (x, y, z, 1) to the world in mm, RAS.
    """

    sizes: tuple[int, ...]
    dtype: np.dtype[np.generic]
    components: int
    offset: int
    slope: float
    intercept: float
    sform: tuple[float, ...]

    @property
    def end(self) -> int:
        """Bytes that a complete file has at least."""
        voxels = int(np.prod(self.sizes, dtype=np.int64))
        return self.offset + voxels * self.components * self.dtype.itemsize


def read_voxels(path: Path) -> NDArray[np.generic]:
    """Return the voxels of a .nii or .nii.gz file.

    Returns:
        Array (c, z, y, x) in the type of the file, or float32/64 where the header scales values.

    Raises:
        ImageError: No NIfTI-1 file, truncated, damaged, of a type or dimension not supported.
    """
    with _opened(path) as stream:
        header = _parse(stream.read(_HEADER_BYTES), path)
        content = _rest(stream, header.end - _HEADER_BYTES, path)
    start = header.offset - _HEADER_BYTES
    values = np.frombuffer(content, header.dtype, offset=start)
    return _scaled(_arranged(values, header), header)


def read_header(path: Path) -> Header:
    """Return the header of a .nii or .nii.gz file.

    Raises:
        ImageError: As `read_voxels`, as far as the header tells.
    """
    with _opened(path) as stream:
        return _parse(stream.read(_HEADER_BYTES), path)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Give the uncompressed content of a file; what is wrong with it is an ImageError."""
    try:
        with _open(path) as stream:
            yield stream
    except EOFError as error:
        raise _truncated(path, "the compressed data end too early") from error
    except (gzip.BadGzipFile, zlib.error, OSError) as error:
        raise ImageError(f"{path}: damaged file ({error})", remedy=_COPY_AGAIN) from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if compressed else path.open("rb")


def _parse(raw: bytes, path: Path) -> Header:
    """Return the parts of a header that say where the voxels are."""
    if len(raw) < _HEADER_BYTES:
        raise _truncated(path, f"the header has {len(raw)} of {_HEADER_BYTES} bytes")
    order = "<" if struct.unpack_from("<i", raw)[0] in (348, 540) else ">"
    length = struct.unpack_from(order + "i", raw)[0]
    if length == _NIFTI2_HEADER_BYTES:
        raise ImageError(f"{path}: NIfTI-2 is not supported", remedy=_REEXPORT)
    if length != _HEADER_BYTES or raw[344:347] != b"n+1":
        raise ImageError(f"{path}: not a NIfTI-1 file with voxels in it", remedy=_REEXPORT)
    dimension, *sizes = struct.unpack_from(order + "8h", raw, 40)
    code = struct.unpack_from(order + "h", raw, 70)[0]
    offset, slope, intercept = struct.unpack_from(order + "3f", raw, 108)
    if not 1 <= dimension <= 7 or min(sizes[:dimension]) < 1 or offset < _HEADER_BYTES:
        raise ImageError(f"{path}: damaged header (sizes {sizes})", remedy=_COPY_AGAIN)
    if any(size > 1 for size in sizes[4:dimension]) or dimension == 1:
        shape = "×".join(map(str, sizes[:dimension]))
        raise ImageError(
            f"{path}: a {dimension}D image ({shape}); 2D, 3D and 4D are supported", remedy=_REEXPORT
        )
    _check_edges(sizes[: min(dimension, 3)], struct.unpack_from(order + "3f", raw, 80), path)
    codes = struct.unpack_from(order + "2h", raw, 252)
    if any(codes) and not np.isfinite(struct.unpack_from(order + "18f", raw, 256)).all():
        raise ImageError(f"{path}: impossible geometry (NaN in qform or sform)", remedy=_REEXPORT)
    if code not in _TYPES:
        raise ImageError(f"{path}: voxel type {code} is not supported", remedy=_REEXPORT)
    kind, components = _TYPES[code]
    return Header(
        sizes=tuple(sizes[: min(dimension, 4)]),
        dtype=np.dtype(order + kind),
        components=components,
        offset=int(offset),
        slope=slope,
        intercept=intercept,
        sform=struct.unpack_from(order + "12f", raw, 280),
    )


def _check_edges(sizes: Sequence[int], edges_mm: Sequence[float], path: Path) -> None:
    """Refuse voxel sizes that ITK would replace by 1 mm in silence, even beside an intact sform.

    Along an axis of one voxel no distance follows from them, and some writers leave them at 0.
    """
    known = edges_mm[: len(sizes)]
    if any(n > 1 and not 0 < mm < np.inf for n, mm in zip(sizes, known, strict=True)):
        raise ImageError(
            f"{path}: impossible geometry (voxel size {'×'.join(f'{mm:g}' for mm in known)} mm, "
            "X×Y×Z, in pixdim)",
            remedy="Export the image again with its voxel size, or correct pixdim in its header.",
        )


def _rest(stream: IO[bytes], needed: int, path: Path) -> bytearray:
    """Return `needed` bytes; read on to the end so that the checksum of gzip is tested."""
    content = bytearray()
    while len(content) < needed:
        part = stream.read(min(_READ_BYTES, needed - len(content)))
        if not part:
            found, wanted = len(content) + _HEADER_BYTES, needed + _HEADER_BYTES
            raise _truncated(path, f"it holds {found} bytes where the header promises {wanted}")
        content += part
    while stream.read(_READ_BYTES):
        pass
    return content


def _arranged(values: NDArray[np.generic], header: Header) -> NDArray[np.generic]:
    """Return (c, z, y, x) from the flat voxels of a 2D, 3D or 4D file."""
    x, y, z, volumes = (*header.sizes, 1, 1)[:4]
    split = values.reshape(volumes, z, y, x, header.components)
    return np.moveaxis(split, -1, 1).reshape(volumes * header.components, z, y, x)


def _scaled(array: NDArray[np.generic], header: Header) -> NDArray[np.generic]:
    """Apply the header's slope and intercept; slope 0 or not finite means none (nifti1.h)."""
    native = array.astype(header.dtype.newbyteorder("="), copy=False)
    usable = np.isfinite([header.slope, header.intercept]).all() and header.slope != 0
    if not usable or (header.slope == 1 and header.intercept == 0) or header.components > 1:
        return native
    wide = np.dtype(np.float64 if native.dtype.itemsize > 2 else np.float32)
    slope, intercept = np.array([header.slope, header.intercept], wide)
    scaled: NDArray[np.generic] = np.asarray(native, wide) * slope + intercept
    return scaled


def _truncated(path: Path, finding: str) -> ImageError:
    return ImageError(f"{path}: truncated file ({finding})", remedy=_COPY_AGAIN)
