"""Training arrays on disk: compressed Blosc2 files that are read patch by patch.

Chunk and block sizes follow nnU-Net v2 (Isensee et al. 2021, nnunetv2 2.8), which fits blocks to
a share of the L1 cache and chunks to a share of the L3 cache. But slices share a chunk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from selfseg.errors import ImageError
from selfseg.files import arriving

_BLOCK_BYTES = 128 * 1024
_CHUNK_BYTES = 6 * 1024 * 1024
# nnU-Net lets random rotation and scaling read half as much again as the patch along each axis.
_READ_SHARE = 1.5
# LZ4 writes training arrays ten times as fast as LZ4HC; images are 5 to 27 % larger (docs).
_LZ4_LEVEL, _ZSTD_LEVEL = 9, 5
_SLAB_VOXELS = 1 << 20
# Fixed length of a Blosc2 frame header before its list of metalayers (README_CFRAME_FORMAT).
_FRAME_HEADER_BYTES = 87

# What to do about a file that may be sound but that the system does not let us read.
UNREADABLE = "Check the file's permissions, the disk, and the limit of open files (ulimit -n)."


class StoredArray(Protocol):
    """What `open_array` gives: slicing decompresses only the blocks that it needs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size per axis."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values."""
        ...

    def __getitem__(self, key: tuple[slice | int, ...] | slice) -> np.ndarray:
        """Return a part as a NumPy array."""
        ...


def save_array(array: NDArray[np.generic], path: Path, *, patch: tuple[int, ...]) -> None:
    """Write an array so that patches of it are read fast; the file appears whole or not at all.

    Args:
        array: (c, z, y, x) image or (z, y, x) label map.
        path: File to write, `.b2nd`.
        patch: Patch size that will be read, two (Y, X) or three entries.
    """
    import blosc2

    shape = array.shape if array.ndim == 4 else (1, *array.shape)
    chunks, blocks = chunk_and_block(shape, patch, array.dtype.itemsize)
    skipped = 4 - array.ndim
    with arriving(path) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(array),
            chunks=chunks[skipped:],
            blocks=blocks[skipped:],
            cparams=blosc2.CParams(
                codec=blosc2.Codec.LZ4,
                clevel=_LZ4_LEVEL,
                typesize=array.dtype.itemsize,
                filters=[_better_filter(array, chunks[skipped:])],
                filters_meta=[0],
                nthreads=1,
            ),
            dparams=blosc2.DParams(nthreads=1),
            urlpath=str(temporary),
            mode="w",
            contiguous=True,
        )


def slabs(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield parts (Z, Y) of a (Z, Y, X) array of about a million voxels: whole slices or rows."""
    depth, rows = slab_shape(shape)
    for z in range(0, shape[0], depth):
        for y in range(0, shape[1], rows):
            yield slice(z, z + depth), slice(y, y + rows)


def slab_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return slices and rows of the parts that `slabs` yields."""
    rows = min(shape[1], max(1, _SLAB_VOXELS // shape[2]))
    depth = min(shape[0], max(1, _SLAB_VOXELS // (shape[1] * shape[2])))
    return depth, rows


def save_slabs(
    part: Callable[[int, slice, slice], NDArray[np.uint8]], shape: Sequence[int], path: Path
) -> None:
    """Write a uint8 array (c, Z, Y, X) part by part; the file appears whole or not at all.

    Args:
        part: Gives the values (z, y, X) of a channel and some slices and rows.
        shape: Of the array.
        path: File to write, `.b2nd`; reading along `slabs` decompresses nothing twice.
    """
    import blosc2

    depth, rows = slab_shape(shape[1:])
    with arriving(path) as temporary:
        array = blosc2.empty(
            tuple(shape),
            np.uint8,
            chunks=(1, depth, rows, shape[3]),
            cparams=blosc2.CParams(
                codec=blosc2.Codec.ZSTD, clevel=_ZSTD_LEVEL, typesize=1, nthreads=1
            ),
            dparams=blosc2.DParams(nthreads=1),
            urlpath=str(temporary),
            mode="w",
            contiguous=True,
        )
        for channel in range(shape[0]):
            for z, y in slabs(shape[1:]):
                array[channel, z, y] = part(channel, z, y)
        del array


def open_array(
    path: Path,
    *,
    remedy: str = "Delete the file and run 'selfseg plan' again: it makes what is missing.",
) -> StoredArray:
    """Open a stored array, memory-mapped where the system can; `remedy` is said of a damaged one.

    Raises:
        ImageError: The file is missing, unreadable, damaged, or anything but a plain array (Blosc2
            files can also hold expressions and pickled objects: those are refused before opening).
    """
    import blosc2

    try:
        is_plain = _is_plain_array(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error})", remedy=UNREADABLE) from error
    if not is_plain:
        raise ImageError(f"{path}: missing, damaged or not a plain Blosc2 array", remedy=remedy)
    try:
        mapped = None if os.name == "nt" else "r"
        array = blosc2.open(
            str(path), mode="r", mmap_mode=mapped, dparams=blosc2.DParams(nthreads=1)
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ImageError(f"{path}: damaged array ({error})", remedy=remedy) from error
    return cast(StoredArray, array)


def chunk_and_block(
    shape: Sequence[int], patch: tuple[int, ...], item_bytes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return chunk and block shapes for an image (c, z, y, x) read in patches.

    Args:
        shape: Image (c, z, y, x).
        patch: Two (Y, X) or three entries.
        item_bytes: Bytes a value.

    Returns:
        Chunk shape and block shape, each (1, z, y, x). Blocks of flat patches are of one slice.
    """
    full_patch = np.array(patch if len(patch) == 3 else (1, *patch))
    image = np.array(shape[1:])
    target = np.maximum(1, np.minimum(image, np.floor(_READ_SHARE * full_patch).astype(int)))
    block = np.minimum([_power_of_two_from(size) for size in full_patch], image)
    while math.prod(block.tolist()) * item_bytes > _BLOCK_BYTES:
        axis = max((i for i in range(3) if block[i] > 1), key=lambda i: (block[i] / target[i], i))
        block[axis] = _power_of_two_below(int(block[axis]))
    chunk = _grown_chunk(block, np.minimum(image, target), full_patch, image, item_bytes)
    if full_patch[0] == 1:
        # Readers decompress blocks. Blosc2 starts four threads for every chunk that it writes.
        slices = _CHUNK_BYTES // (math.prod(chunk.tolist()) * item_bytes)
        chunk[0] = min(max(slices, 1), image[0])
    return (1, *chunk.tolist()), (1, *block.tolist())


def _grown_chunk(
    block: NDArray[np.int_],
    limit: NDArray[np.int_],
    patch: NDArray[np.int_],
    image: NDArray[np.int_],
    item_bytes: int,
) -> NDArray[np.int_]:
    """Grow a block by whole blocks along its shortest axis while it stays under the limit."""
    chunk = np.minimum(block, image)
    while True:
        options = []
        for axis in range(3):
            grown = chunk.copy()
            grown[axis] = min(chunk[axis] + block[axis], limit[axis])
            fits = math.prod(grown.tolist()) * item_bytes <= _CHUNK_BYTES
            if patch[axis] > 1 and grown[axis] > chunk[axis] and fits:
                options.append((chunk[axis] / limit[axis], -image[axis], axis, grown))
        if not options:
            return chunk
        chunk = min(options, key=lambda option: option[:3])[3]


def _power_of_two_from(size: int) -> int:
    """Return the smallest power of two that is at least `size`."""
    return 1 << max(int(size) - 1, 0).bit_length()


def _power_of_two_below(size: int) -> int:
    """Return the largest power of two strictly below `size`, which is above 1."""
    return 1 << ((size - 1).bit_length() - 1)


def _better_filter(array: NDArray[np.generic], chunk: Sequence[int]) -> object:
    """Return no filter or byte shuffle, whichever compresses the central chunk better."""
    import blosc2

    starts = [(size - part) // 2 for size, part in zip(array.shape, chunk, strict=True)]
    part = array[tuple(slice(a, a + size) for a, size in zip(starts, chunk, strict=True))]
    content = np.ascontiguousarray(part)
    filters = (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE)

    def compressed_bytes(kind: object) -> int:
        packed = blosc2.compress2(
            content,
            codec=blosc2.Codec.LZ4,
            clevel=_LZ4_LEVEL,
            typesize=content.dtype.itemsize,
            filters=[kind],
            filters_meta=[0],
            nthreads=1,
        )
        return len(packed)

    return min(filters, key=compressed_bytes)


def _is_plain_array(path: Path) -> bool:
    """Tell whether a file is there, a Blosc2 frame, and its only metalayer is `b2nd`."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_FRAME_HEADER_BYTES + 12)
    except FileNotFoundError:
        return False
    layers = head[_FRAME_HEADER_BYTES:]
    # msgpack: array of 3, uint16 size of the index, map16 with one entry, its name.
    return (
        head[2:10] == b"b2frame\x00"
        and layers[:2] == b"\x93\xcd"
        and layers[4:7] == b"\xde\x00\x01"
        and layers[7:12] == b"\xa4b2nd"
    )
