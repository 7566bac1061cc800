"""Where sliding windows lie, and the share of each in the sum of all weights of a voxel.

Window positions and weight follow nnU-Net v2 (Isensee et al., 2021). The windows form a grid, so
the sum of exact weights is a product of one sum for each axis. Weights rounded to float16, as
nnU-Net has them, are no product: they are summed over the windows that overlap.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Window = tuple[slice, slice, slice]
Index = tuple[int, int, int]
Patch = tuple[int, int, int]

FLOAT16_PEAK = 10.0  # the largest weight of nnU-Net's map, so that fewer are rounded to 0


@dataclass(frozen=True)
class Windows(ABC):
    """Windows of equal size.

    Attributes:
        patch: Size of a window (z, y, x).
        starts: First voxel of the windows along each axis.
    """

    patch: Patch
    starts: tuple[tuple[int, ...], ...]

    def windows(self) -> list[Index]:
        """Return the numbers of every window along the axes, the last axis fastest."""
        return [(z, y, x) for z, y, x in product(*(range(len(s)) for s in self.starts))]

    def place(self, index: Index) -> Window:
        """Return where a window lies."""
        z, y, x = (
            slice(starts[i], starts[i] + size)
            for starts, i, size in zip(self.starts, index, self.patch, strict=True)
        )
        return (z, y, x)

    @abstractmethod
    def share(self, index: Index, device: torch.device) -> Tensor:
        """Return the share of a window in the weight of each of its voxels (z, y, x)."""


@dataclass(frozen=True)
class Grid(Windows):
    """Exact weights.

    Attributes:
        shares: For each axis, each window's weight over the sum of weights (windows, patch).
    """

    shares: tuple[Tensor, ...]
    _copies: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    def share(self, index: Index, device: torch.device) -> Tensor:
        """Return the share of a window in the weight of each of its voxels (z, y, x)."""
        if device not in self._copies:  # once: a copy waits for what the device computes
            self._copies[device] = tuple(shares.to(device) for shares in self.shares)
        z, y, x = (shares[i] for shares, i in zip(self._copies[device], index, strict=True))
        return z[:, None, None] * y[:, None] * x


@dataclass(frozen=True)
class RoundedGrid(Windows):
    """Weights that were rounded to float16.

    Attributes:
        weight: Of each voxel of a window, float32 (z, y, x).
    """

    weight: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def share(self, index: Index, device: torch.device) -> Tensor:
        """Return the share of a window in the weight of each of its voxels (z, y, x)."""
        if device not in self._copies:
            self._copies[device] = self.weight.to(device)
        weight = self._copies[device]
        total = torch.zeros_like(weight)
        moves = [
            [other - starts[i] for other in starts if abs(other - starts[i]) < size]
            for starts, i, size in zip(self.starts, index, self.patch, strict=True)
        ]
        for move in product(*moves):
            here, there = self._overlap(move)
            total[here] += weight[there]
        return weight / total

    def _overlap(self, move: Sequence[int]) -> tuple[Window, Window]:
        """Return where a window that is moved overlaps this one, and the same place in it."""
        (a, p), (b, q), (c, r) = (
            (slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size + min(-by, 0)))
            for by, size in zip(move, self.patch, strict=True)
        )
        return (a, b, c), (p, q, r)


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Return first voxels of windows that cover an axis, evenly spread and rounded.

    Args:
        size: Voxels of the axis, at least `patch`.
        patch: Voxels of a window.
        step: Largest distance of two windows, in windows.
    """
    count = _window_count(size, patch, step)
    if count == 1:
        return (0,)
    return tuple(round(i * (size - patch) / (count - 1)) for i in range(count))


def stepped_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Return `tile_starts` with nnU-Net's rounding: the distance of two windows comes first.

    Where a start is a half, float noise may round it to the other side.
    """
    count = _window_count(size, patch, step)
    distance = (size - patch) / max(count - 1, 1)
    return tuple(round(distance * i) for i in range(count))


def _window_count(size: int, patch: int, step: float) -> int:
    return math.ceil((size - patch) / max(step * patch, 1.0)) + 1


def window_profile(patch: int, sigma: float) -> np.ndarray:
    """Return the weight along one axis: a Gaussian in the window's middle with maximum 1.

    Args:
        patch: Voxels of a window.
        sigma: Standard deviation in windows; 0 weighs all voxels alike.
    """
    if sigma <= 0:
        return np.ones(patch)
    impulse = np.zeros(patch)
    impulse[patch // 2] = 1
    profile = ndimage.gaussian_filter1d(impulse, sigma * patch, mode="constant")
    profile /= profile.max()
    profile[profile == 0] = profile[profile > 0].min()
    return np.asarray(profile)


def rounded_weight(patch: Patch, sigma: float) -> Tensor:
    """Return the weight of a window's voxels (z, y, x) as nnU-Net has it, in float32.

    A product of Gaussians with maximum 10 in float16; what becomes 0 gets the smallest value that
    does not. At the edges of an image such values decide, where only weak windows meet.
    """
    z, y, x = (window_profile(size, sigma) for size in patch)
    weight = (FLOAT16_PEAK * z[:, None, None] * y[:, None] * x).astype(np.float16)
    weight[weight == 0] = weight[weight > 0].min()
    return torch.from_numpy(weight.astype(np.float32))


def make_grid(shape: Sequence[int], patch: Patch, *, step: float, sigma: float) -> Windows:
    """Lay windows with exact weights over an image that is at least as large as one window."""
    starts = tuple(tile_starts(size, p, step) for size, p in zip(shape, patch, strict=True))
    shares = tuple(
        _shares(size, p, axis_starts, sigma)
        for size, p, axis_starts in zip(shape, patch, starts, strict=True)
    )
    return Grid(patch, starts, shares)


def make_rounded_grid(shape: Sequence[int], patch: Patch, *, step: float, sigma: float) -> Windows:
    """Lay windows over an image with positions and weights rounded as nnU-Net does."""
    starts = tuple(stepped_starts(size, p, step) for size, p in zip(shape, patch, strict=True))
    return RoundedGrid(patch, starts, rounded_weight(patch, sigma))


def _shares(size: int, patch: int, starts: Sequence[int], sigma: float) -> Tensor:
    """Return each window's weight along one axis over the sum of all weights (windows, patch)."""
    profile = window_profile(patch, sigma)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += profile
    shares = np.stack([profile / total[start : start + patch] for start in starts])
    return torch.from_numpy(shares.astype(np.float32))
