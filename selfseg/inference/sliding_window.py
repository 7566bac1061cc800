"""Logits of a whole image from overlapping windows with a Gaussian weight.

Every window is multiplied by its share of the sum of all weights, which is known beforehand, so the
accumulated logits need no division. A 2D network is a window one slice thick.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfseg.errors import DeviceError
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.mirroring import mirrored_mean
from selfseg.inference.uniform_windows import group_windows
from selfseg.inference.window_grid import Index, Window, Windows, make_grid, make_rounded_grid
from selfseg.networks.device import in_short, is_out_of_memory
from selfseg.networks.layout import CHANNELS_LAST
from selfseg.networks.precision import autocast_dtype, fine_dtype
from selfseg.records.plan import Inference
from selfseg.words import counted

log = logging.getLogger(__name__)

# Voxels in one call of a network. A GPU needs about this many to be busy; a CPU is busy with
# less, and larger batches leave its caches. The result does not depend on it.
VOXELS_PER_CALL = {"cuda": 2**21, "cpu": 2**17}
USUAL_FEATURES = 32  # of a network at full resolution
# Where a GPU has the memory, up to so many large windows go in one call. A voxel takes about so
# many bytes in a U-Net of usual width in float32, and in the logits of an output and their copies.
MOST_LARGE_WINDOWS = 8
VOXEL_BYTES, OUTPUT_BYTES = 1024, 20


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
    make = make_grid if options.window_weight == "exact" else make_rounded_grid
    grid = make(padded.shape[1:], window, step=options.step, sigma=options.window_sigma)
    store = store or LogitStore()
    limit = _batch_limit(math.prod(patch), outputs, device, store.budget)
    if device.type == "cpu" and store.budget.windows is not None:
        limit = min(limit, store.budget.windows)
    is_fine = options.precision == "fine"
    runner = _Runner(network, options.mirror_axes, len(patch), context, device, limit, is_fine)
    total = store.allocate((outputs, *padded.shape[1:]), device)
    if context:
        padded = nn.functional.pad(padded, (0, 0, 0, 0, context, context), mode="replicate")
    padded = _near(padded, device)
    groups = _group(padded, grid, context)
    done = 0
    with torch.no_grad():
        while done < len(groups):
            batch = groups[done : done + runner.windows]
            try:
                logits = runner.run(padded, [grid.place(group[0]) for group in batch])
            except (torch.OutOfMemoryError, RuntimeError) as error:
                total = _make_room(runner, total, store, error)
                continue
            _add(logits, batch, grid, total, store)
            del logits  # not held while the next windows are computed
            done += len(batch)
    return total[(slice(None), *inner)]


def _group(image: Tensor, grid: Windows, context: int) -> list[tuple[Index, ...]]:
    """Group windows that hold the same; where there is no memory to find them, none are."""
    try:
        return group_windows(image, grid, context=context)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return [(index,) for index in grid.windows()]


def _add(
    logits: Tensor,
    groups: Sequence[tuple[Index, ...]],
    grid: Windows,
    total: Tensor,
    store: LogitStore,
) -> None:
    """Add the logits of each group's first window wherever its windows lie, by their shares."""
    for part, (*others, last) in zip(logits, groups, strict=True):
        for index in others:
            store.add(total, grid.place(index), part * grid.share(index, part.device))
        store.add(total, grid.place(last), part.mul_(grid.share(last, part.device)))


@dataclass
class _Runner:
    """Runs batches of windows through a network; `limit` shrinks when memory runs out."""

    network: nn.Module
    mirror_axes: Sequence[int]
    dims: int
    context: int
    device: torch.device
    limit: int
    is_fine: bool = False

    @property
    def windows(self) -> int:
        """Windows that are cut at once.

        On CUDA mirror images fill a call first: all calls but the last are of one size then, and
        cuDNN measures its algorithms for every size.
        """
        if self.device.type != "cuda":
            return self.limit
        return max(1, self.limit >> len(self.mirror_axes))

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
        dtype = fine_dtype(self.device) if self.is_fine else autocast_dtype(self.device)[0]
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
        fewer = counted(runner.limit, "window")
        log.info("out of memory: %s in one call from here on", fewer)
        return total
    if total.device.type != "cpu":
        log.info("out of memory: logits move to the CPU")
        return store.allocate(total.shape, torch.device("cpu")).copy_(total)
    raise DeviceError(
        f"{runner.device}: one window does not fit into memory ({in_short(error)})",
        remedy="Close other programs, use --device cpu, or plan anew with a smaller --memory.",
    ) from error


def _near(image: Tensor, device: torch.device) -> Tensor:
    """Bring an image to the device if there is room: windows overlap and are cut from it."""
    try:
        return image.to(device)
    except torch.OutOfMemoryError:
        return image


def _batch_limit(
    patch_voxels: int, outputs: int, device: torch.device, budget: MemoryBudget
) -> int:
    """Return the windows in one call; more outputs than usual features take memory themselves.

    On CUDA it is a power of two: mirror images, of which there are so many, fill calls evenly.
    """
    voxels = VOXELS_PER_CALL.get(device.type, VOXELS_PER_CALL["cpu"])
    busy = max(1, voxels // patch_voxels * USUAL_FEATURES // max(outputs, USUAL_FEATURES))
    if device.type != "cuda":
        return busy
    window_bytes = patch_voxels * (VOXEL_BYTES + OUTPUT_BYTES * outputs)
    fitting = int(budget.windows_bytes(device) // window_bytes)
    limit = max(busy, min(fitting, MOST_LARGE_WINDOWS))
    return 1 << (limit.bit_length() - 1)


def _as_window(patch: Sequence[int], context: int) -> tuple[int, int, int]:
    """Return the part of a patch that is segmented."""
    z, y, x = (1,) * (3 - len(patch)) + tuple(patch)
    return (z - 2 * context, y, x)


def _pad(image: Tensor, window: tuple[int, int, int]) -> tuple[Tensor, Window]:
    """Pad an image with zeros around its center to at least a window; return its place in it."""
    missing = [max(p - size, 0) for p, size in zip(window, image.shape[1:], strict=True)]
    before = [count // 2 for count in missing]  # an odd voxel goes to the end
    pairs = [(low, count - low) for low, count in zip(before, missing, strict=True)]
    sides = [side for pair in reversed(pairs) for side in pair]
    padded = nn.functional.pad(image, sides) if any(sides) else image  # it would copy it as well
    z, y, x = (slice(b, b + size) for b, size in zip(before, image.shape[1:], strict=True))
    return padded, (z, y, x)
