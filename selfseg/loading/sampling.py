"""Which case and which position a training sample is cut from; foreground is forced in a share.

The rules are nnU-Net v2's (Isensee et al., 2021), with one deviation: a forced patch is also kept
from hanging over the far border, as it is at the near one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Corner = tuple[int, ...]
Locations = npt.NDArray[np.int32]


def forced_samples(batch: int, share: float, part: range, step: int) -> int:
    """Return how many samples of a part of a batch must show foreground: its last ones do.

    A whole batch has as many in every step. Its beginning and its end have them in turn, each in
    proportion to its size: rounded for itself, a part of one sample would never have any.

    Args:
        batch: Samples of the whole batch.
        share: Of its samples that must show foreground.
        part: Those of its samples that are asked for: its beginning, its end, or all.
        step: Number of the step.

    Returns:
        In a row of steps less than one away from their share of all forced samples.
    """
    forced = batch - round(batch * (1.0 - share))

    def before(position: int) -> int:
        """Return those of the samples before a position; over the steps, rounding cancels out."""
        return (step + 1) * forced * position // batch - step * forced * position // batch

    return before(part.stop) - before(part.start)


def position_limits(loaded: int, final: int, size: int) -> tuple[int, int]:
    """Return the lowest and highest corner of a loaded patch along one axis, both inclusive.

    Limits are such that the final patch, in the center of the loaded one, stays inside the image,
    or that the image stays inside the final patch if it is the smaller one (both up to half a
    voxel of rounding).

    Args:
        loaded: Patch that is loaded, at least the final one.
        final: Patch that is left after spatial transforms.
        size: Image.
    """
    pad = max(loaded - final, loaded - size)
    return -((pad + 1) // 2), size + pad // 2 + pad % 2 - loaded


def random_corner(
    loaded: Sequence[int], final: Sequence[int], shape: Sequence[int], rng: np.random.Generator
) -> Corner:
    """Draw a corner uniformly."""
    limits = [position_limits(*sizes) for sizes in zip(loaded, final, shape, strict=True)]
    return tuple(int(rng.integers(low, high, endpoint=True)) for low, high in limits)


def corner_around(
    voxel: Sequence[int], loaded: Sequence[int], final: Sequence[int], shape: Sequence[int]
) -> Corner:
    """Return the corner that brings a voxel to the center, as far as the limits allow."""
    limits = [position_limits(*sizes) for sizes in zip(loaded, final, shape, strict=True)]
    return tuple(
        min(max(low, at - size // 2), high)
        for at, size, (low, high) in zip(voxel, loaded, limits, strict=True)
    )


def draw_center(
    counts: Sequence[int],
    annotated: int,
    row: Callable[[int], Sequence[int]],
    rng: np.random.Generator,
    *,
    forced: bool,
) -> tuple[int, ...] | None:
    """Draw the voxel that a patch shows in its center; None for a patch anywhere.

    A forced patch shows foreground if there is any. Where not all voxels are annotated every other
    patch shows an annotated one, since a patch without any teaches nothing.

    Args:
        counts: Stored voxels of each label or region; they lie one after the other.
        annotated: Stored annotated voxels, which lie after those; 0 if all voxels are annotated.
        row: Returns the stored voxel of a row.
        rng: Stream.
        forced: Whether foreground must be shown.
    """
    voxel = draw_location(counts, row, rng) if forced else None
    if voxel is None and annotated:
        chosen = sum(counts) + int(rng.integers(annotated))
        voxel = tuple(int(value) for value in row(chosen))
    return voxel


def draw_location(
    counts: Sequence[int], row: Callable[[int], Sequence[int]], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Draw a class evenly among those present, then one of its voxels evenly.

    Args:
        counts: Stored voxels of each label or region; they lie one after the other.
        row: Returns the stored voxel of a row.
        rng: Stream.

    Returns:
        The voxel, or None without any foreground.
    """
    present = [label for label, count in enumerate(counts) if count]
    if not present:
        return None
    label = present[int(rng.integers(len(present)))]
    chosen = sum(counts[:label]) + int(rng.integers(counts[label]))
    return tuple(int(value) for value in row(chosen))
