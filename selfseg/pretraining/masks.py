"""Masked patches: cut at random from stored images, with blocks of them set to 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfseg.io.store import open_array

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MaskedBatch:
    """What a network sees, what it should paint, and where.

    Attributes:
        seen: (b, c, *patch), 0 where masked.
        image: (b, c, *patch).
        mask: (b, 1, *patch), True where masked.
    """

    seen: Tensor
    image: Tensor
    mask: Tensor

    def error(self, painted: Tensor) -> Tensor:
        """Return the mean squared error of the masked voxels."""
        squares = (painted.float() - self.image).square() * self.mask
        return squares.sum() / (self.mask.sum() * self.image.shape[1])


def draw_batch(
    arrays: Sequence[Path],
    patch: tuple[int, ...],
    *,
    batch: int,
    block: tuple[int, ...],
    share: float,
    seed: Sequence[int],
) -> MaskedBatch:
    """Return a batch that depends on the seed alone.

    Args:
        arrays: Stored images (c, Z, Y, X).
        patch: Two (Y, X) or three entries.
        batch: Patches.
        block: Voxels of a masked block, one entry for each axis of the patch.
        share: Of blocks that are masked.
        seed: Of everything in it, such as (seed, step).
    """
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(batch):
        images.append(cut_patch(arrays[int(rng.integers(len(arrays)))], patch, rng))
        masks.append(draw_mask(patch, block, share, rng))
    image = torch.from_numpy(np.stack(images))
    mask = torch.from_numpy(np.stack(masks)).unsqueeze(1)
    return MaskedBatch(seen=image * ~mask, image=image, mask=mask)


def draw_mask(
    patch: Sequence[int], block: Sequence[int], share: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return a mask of the patch's shape: exactly that share of its blocks, rounded."""
    grid = [-(-size // edge) for size, edge in zip(patch, block, strict=True)]
    count = int(np.prod(grid))
    masked = np.zeros(count, bool)
    masked[rng.permutation(count)[: max(1, round(share * count))]] = True
    mask = masked.reshape(grid)
    for axis, edge in enumerate(block):
        mask = mask.repeat(edge, axis=axis)
    return np.ascontiguousarray(mask[tuple(slice(size) for size in patch)])


def cut_patch(path: Path, patch: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Return a random patch (c, *patch) of a stored image; 0 beyond an image that is smaller."""
    array = open_array(path)
    sizes = patch if len(patch) == 3 else (1, *patch)
    where, beyond = [], []
    for length, size in zip(array.shape[1:], sizes, strict=True):
        start = int(rng.integers(max(length - size, 0) + 1))
        where.append(slice(start, min(start + size, length)))
        missing = max(size - length, 0)
        beyond.append((missing // 2, missing - missing // 2))
    cut = np.asarray(array[(slice(None), *where)], np.float32)
    padded = np.pad(cut, ((0, 0), *beyond))
    return padded if len(patch) == 3 else padded[:, 0]


def flat_error(batch: MaskedBatch) -> float:
    """Return the error of painting zeros, the mean of a normalized image."""
    return float(batch.error(torch.zeros_like(batch.image)))
