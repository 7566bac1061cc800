"""Logits of a whole image from overlapping windows with a Gaussian weight.

Window positions and weight follow nnU-Net v2 (Isensee et al., 2021). The windows form a grid, so
the sum of their weights is a product of one sum for each axis and is known beforehand: every
window is multiplied by its share of that sum, and the accumulated logits need no division.
A 2D network is a window one slice thick.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from selfseg.errors import DeviceError
from selfseg.inference.logit_store import LogitStore
from selfseg.inference.mirroring import mirrored_mean
from selfseg.networks.layout import CHANNELS_LAST
from selfseg.networks.precision import autocast_dtype
from selfseg.records.plan import Inference

log = logging.getLogger(__name__)

# Voxels in one call of a network. A GPU needs about this many to be busy; a CPU is busy with
# less, and larger batches leave its caches. The result does not depend on it.
VOXELS_PER_CALL = {"cuda": 2**21, "cpu": 2**17}
USUAL_FEATURES = 32  # of a network at full resolution

ALLOCATION_FAILED = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

Window = tuple[slice, slice, slice]
Index = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Where windows lie along each axis, and the share of each in the sum of all weights.

    Attributes:
        patch: Size of a window (z, y, x).
        starts: First voxel of the windows along each axis.
        shares: For each axis and start, the window's weight over the sum of weights (patch,).
    """

    patch: tuple[int, int, int]
    starts: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[np.ndarray, ...], ...]

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

    def share(self, index: Index, device: torch.device) -> Tensor:
        """Return the share of a window in the weight of each of its voxels (z, y, x)."""
        z, y, x = (
            torch.from_numpy(shares[i]).to(device)
            for shares, i in zip(self.shares, index, strict=True)
        )
        return z[:, None, None] * y[:, None] * x


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Return first voxels of windows that cover an axis, evenly spread and rounded.

    Args:
        size: Voxels of the axis, at least `patch`.
        patch: Voxels of a window.
        step: Largest distance of two windows, in windows.
    """
    stride = max(step * patch, 1.0)
    count = math.ceil((size - patch) / stride) + 1
    if count == 1:
        return (0,)
    return tuple(round(i * (size - patch) / (count - 1)) for i in range(count))


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


def make_grid(
    shape: Sequence[int], patch: tuple[int, int, int], *, step: float, sigma: float
) -> Grid:
    """Lay windows over an image that is at least as large as one window."""
    starts = tuple(tile_starts(size, p, step) for size, p in zip(shape, patch, strict=True))
    shares = tuple(
        _shares(size, p, axis_starts, sigma)
        for size, p, axis_starts in zip(shape, patch, starts, strict=True)
    )
    return Grid(patch, starts, shares)


def predict_logits(  # noqa: PLR0913 (what a window is, and where things lie)
    network: nn.Module,
    image: Tensor,
    *,
    patch: Sequence[int],
    options: Inference,
    outputs: int,
    device: torch.device,
    context: int = 0,
    store: LogitStore | None = None,
) -> Tensor:
    """Run a network over a whole image.

    Args:
        network: In eval mode on `device`; gives a tuple whose first entry is (b, k, *spatial).
        image: Preprocessed image (c, z, y, x).
        patch: Window size; two entries for a 2D network, which sees every slice on its own.
        options: Window step, mirrored axes (of the network), width of the window weight.
        outputs: Number of outputs k, background included.
        device: Where the network is.
        context: Slices at either end of the patch that the network sees but does not segment;
            beyond the image they repeat its last slice.
        store: Where the logits may lie; by default wherever there is memory.

    Returns:
        Logits (k, z, y, x) in float32 or float16, on `device` or on the CPU.

    Raises:
        DeviceError: Not even one window fits into memory.
    """
    window = _as_window(patch, context)
    padded, inner = _pad(image, window)
    grid = make_grid(padded.shape[1:], window, step=options.step, sigma=options.window_sigma)
    limit = _batch_limit(math.prod(patch), outputs, device)
    runner = _Runner(network, options.mirror_axes, len(patch), context, device, limit)
    store = store or LogitStore()
    total = store.allocate((outputs, *padded.shape[1:]), device)
    if context:
        padded = nn.functional.pad(padded, (0, 0, 0, 0, context, context), mode="replicate")
    padded = _near(padded, device)
    windows = grid.windows()
    done = 0
    with torch.no_grad():
        while done < len(windows):
            batch = windows[done : done + runner.limit]
            try:
                logits = runner.run(padded, [grid.place(index) for index in batch])
                for part, index in zip(logits, batch, strict=True):
                    part.mul_(grid.share(index, part.device))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                total = _make_room(runner, total, store, error)
                continue
            for part, index in zip(logits, batch, strict=True):
                store.add(total, grid.place(index), part)
            done += len(batch)
    return total[(slice(None), *inner)]


@dataclass
class _Runner:
    """Runs batches of windows through a network; `limit` shrinks when memory runs out."""

    network: nn.Module
    mirror_axes: Sequence[int]
    dims: int
    context: int
    device: torch.device
    limit: int

    def run(self, image: Tensor, places: Sequence[Window]) -> Tensor:
        """Return logits (b, k, z, y, x) in float32 of the windows at some places.

        The image has `context` more slices at either end than the places count.
        """
        boxes = [(slice(z.start, z.stop + 2 * self.context), y, x) for z, y, x in places]
        batch = torch.stack([image[(slice(None), *box)] for box in boxes]).to(self.device)
        if self.dims == 2:
            batch = batch.squeeze(2)
        logits = mirrored_mean(self._forward, batch, self.mirror_axes, limit=self.limit)
        return logits.unsqueeze(2) if self.dims == 2 else logits

    def _forward(self, batch: Tensor) -> Tensor:
        if self.device.type == "cpu":
            # oneDNN convolves about 1.2 times faster with the channels innermost.
            batch = batch.contiguous(memory_format=CHANNELS_LAST[batch.dim() - 2])
        dtype, _ = autocast_dtype(self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = self.network(batch)[0]
        return logits


def _make_room(runner: _Runner, total: Tensor, store: LogitStore, error: RuntimeError) -> Tensor:
    """React to exhausted memory: smaller batches first, then the logits leave the device."""
    if not is_out_of_memory(error):
        raise error
    if runner.device.type == "cuda":
        torch.cuda.empty_cache()
    if runner.limit > 1:
        runner.limit //= 2
        log.info("out of memory: %d windows in one call from here on", runner.limit)
        return total
    if total.device.type != "cpu":
        log.info("out of memory: logits move to the CPU")
        return store.allocate(total.shape, torch.device("cpu")).copy_(total)
    raise DeviceError(
        f"{runner.device}: one window does not fit into memory ({error.__class__.__name__})",
        remedy="Close other programs, use --device cpu, or plan anew with a smaller --memory.",
    ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory of a device or of the machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator of torch and the CUDA libraries raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_FAILED)


def _near(image: Tensor, device: torch.device) -> Tensor:
    """Bring an image to the device if there is room: windows overlap and are cut from it."""
    try:
        return image.to(device)
    except torch.OutOfMemoryError:
        return image


def _batch_limit(patch_voxels: int, outputs: int, device: torch.device) -> int:
    """Return the windows in one call; more outputs than usual features take memory themselves."""
    voxels = VOXELS_PER_CALL.get(device.type, VOXELS_PER_CALL["cpu"])
    return max(1, voxels // patch_voxels * USUAL_FEATURES // max(outputs, USUAL_FEATURES))


def _as_window(patch: Sequence[int], context: int) -> tuple[int, int, int]:
    """Return the part of a patch that is segmented."""
    z, y, x = (1,) * (3 - len(patch)) + tuple(patch)
    return (z - 2 * context, y, x)


def _pad(image: Tensor, window: tuple[int, int, int]) -> tuple[Tensor, Window]:
    """Pad an image with zeros around its center to at least a window; return its place in it."""
    missing = [max(p - size, 0) for p, size in zip(window, image.shape[1:], strict=True)]
    before = [count // 2 for count in missing]  # an odd voxel goes to the end
    pairs = [(low, count - low) for low, count in zip(before, missing, strict=True)]
    padded = nn.functional.pad(image, [side for pair in reversed(pairs) for side in pair])
    z, y, x = (slice(b, b + size) for b, size in zip(before, image.shape[1:], strict=True))
    return padded, (z, y, x)


def _shares(size: int, patch: int, starts: Sequence[int], sigma: float) -> tuple[np.ndarray, ...]:
    """Return the weight of each window along one axis over the sum of all windows' weights."""
    profile = window_profile(patch, sigma)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += profile
    return tuple((profile / total[start : start + patch]).astype(np.float32) for start in starts)
