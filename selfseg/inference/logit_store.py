"""Where the logits of a whole image lie: on the device, in memory, or in a scratch file.

Logits are the one array whose size grows with the number of labels. The first place with enough
room is taken: device float32, device float16, memory float32, memory float16, file float16. Within
a limit that the user set, only float32 in memory or in a file, so that the limit changes no result.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from selfseg.execution.resources import free_memory_gib

log = logging.getLogger(__name__)

GIB = 2**30
RELEASE_EVERY_S = 0.005  # at most some 20 MiB are read from a file in this time
# Around each page that is read the system maps its neighbors too, 64 KiB in all; so many are
# touched before they are released.
REGIONS_AT_ONCE, REGION_BYTES = 256, 1 << 16


@dataclass(frozen=True)
class MemoryBudget:
    """How much memory prediction may take, and what each part of it gets.

    Of what weights and work leave, two images that are on their way at once, one computed and one
    exported, may each have a quarter for its logits, and the exported one an eighth for its
    conversion. On a device weights that are kept there may have an eighth, and windows in a call a
    quarter, if that is more than one; in main memory the rest is a reserve.

    Attributes:
        max_gib: Upper limit, weights and work included; None takes what is available.
        weights_gib: What the weights of all networks take in main memory.
        work_gib: What images and windows take there.
        windows: Most windows in one call of a network; None: as many as are fast.
        overlaps: The next image is read and the last one written while one is computed.
    """

    max_gib: float | None = None
    weights_gib: float = 0.0
    work_gib: float = 0.0
    windows: int | None = None
    overlaps: bool = True

    def logits_bytes(self, device: torch.device) -> float:
        """Return room for the logits of one image on a device."""
        return self._bytes(device) / 4

    def device_weights_bytes(self, device: torch.device) -> float:
        """Return room for weights that stay on a device while several networks take turns."""
        return self._bytes(device) / 8

    def windows_bytes(self, device: torch.device) -> float:
        """Return room for what a network makes of several windows in one call on a device."""
        return self._bytes(device) / 4

    def export_gib(self) -> float:
        """Return room for bringing logits back to the image's grid."""
        return self._bytes(torch.device("cpu")) / 8 / GIB

    def part(self, share: float) -> MemoryBudget:
        """Return a budget of a share of what weights and work leave."""
        left = self._left_gib()
        return MemoryBudget(None if left is None else left * share)

    def _left_gib(self) -> float | None:
        """Return the limit without weights and work; None without a limit."""
        if self.max_gib is None:
            return None
        return max(self.max_gib - self.weights_gib - self.work_gib, 0.0)

    def _bytes(self, device: torch.device) -> float:
        """Return what may be taken on a device; weights that lie there are no longer available."""
        left, available = self._left_gib(), _available_bytes(device)
        return available if left is None else min(left * GIB, available)


def _available_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    return free_memory_gib() * GIB


@dataclass
class LogitStore:
    """Room for the logits of one image after another.

    Attributes:
        budget: Memory that prediction may take.
        folder: Folder of scratch files; default: the system's.
    """

    budget: MemoryBudget = MemoryBudget()
    folder: Path | None = None
    _mapped: WeakValueDictionary[int, mmap.mmap] = field(
        default_factory=WeakValueDictionary, init=False, repr=False
    )

    def allocate(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return zeros of a shape in the first place that has room for them."""
        count = math.prod(shape)
        main = torch.device("cpu")
        for place in dict.fromkeys((device, main)):
            room = self.budget.logits_bytes(place)
            exact = place == main and self.budget.max_gib is not None
            for dtype in (torch.float32,) if exact else (torch.float32, torch.float16):
                if count * dtype.itemsize <= room:
                    return torch.zeros(tuple(shape), dtype=dtype, device=place)
        return self._map_file(shape)

    def _map_file(self, shape: Sequence[int]) -> Tensor:
        """Return zeros in a scratch file; in half precision if only that fits on the disk."""
        count, dtype = math.prod(shape), torch.float16
        with tempfile.TemporaryFile(dir=self.folder, prefix=".selfseg-logits-") as file:
            free = shutil.disk_usage(self.folder or tempfile.gettempdir()).free
            if self.budget.max_gib is not None and count * torch.float32.itemsize < free:
                dtype = torch.float32
            size = count * dtype.itemsize
            log.info("logits of %.1f GiB go to a scratch file", size / GIB)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
        logits = torch.frombuffer(mapped, dtype=dtype).view(tuple(shape))
        self._mapped[logits.untyped_storage().data_ptr()] = mapped
        return logits

    def add(self, logits: Tensor, place: tuple[slice, slice, slice], part: Tensor) -> None:
        """Add a part (k, z, y, x) to logits; in a scratch file some channels at a time."""
        size = len(part)
        if self._is_mapped(logits):
            rows = part.shape[2] * logits.shape[3] * logits.element_size()  # of one slice
            regions = part.shape[1] * (1 + rows // REGION_BYTES)
            size = max(1, REGIONS_AT_ONCE // regions)
        for first in range(0, len(part), size):
            values = part[first : first + size]
            target = logits[(slice(first, first + size), *place)]
            target += values.to(logits.device, logits.dtype)
            self.release(logits)

    def release(self, logits: Tensor) -> None:
        """Let go of the memory that the pages of a scratch file take; the file keeps them."""
        mapped = self._mapped.get(logits.untyped_storage().data_ptr())
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows lacks it
            mapped.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def reading(self, logits: Tensor) -> Iterator[None]:
        """Let the calling thread read logits from end to end, part by part.

        On a CUDA device it then waits for its own parts only, not for what another thread computes
        in the meantime. Pages of a scratch file are released again and again: the system would drop
        them when memory gets scarce; this way it never does.
        """
        if logits.device.type == "cuda":
            with _beside(logits):
                yield
            return
        if not self._is_mapped(logits):
            yield
            return
        finished = threading.Event()

        def keep_releasing() -> None:
            while not finished.wait(RELEASE_EVERY_S):
                self.release(logits)

        thread = threading.Thread(target=keep_releasing, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def _is_mapped(self, logits: Tensor) -> bool:
        return logits.untyped_storage().data_ptr() in self._mapped


@contextmanager
def _beside(logits: Tensor) -> Iterator[None]:
    """Work on another stream, which begins when all that was given to this one so far is done."""
    stream = _second_stream(logits.device)
    stream.wait_stream(torch.cuda.current_stream(logits.device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        logits.record_stream(stream)


@lru_cache(maxsize=16)
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for the whole process, since memory is cached for each stream apart.

    Its kernels are small: they go first wherever the large ones of a network leave room.
    """
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
