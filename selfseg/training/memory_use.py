"""How much memory a training takes: of the device where there is one, else of the process."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

GIB = 2**30
# Linux counts a process's most resident memory, and forgets it when told so.
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = "VmHWM:"


class MemoryUse:
    """Counts weights and steps, not the cases that a loader holds in memory between them.

    Make it before the network is built, call `data_follows` before the loader starts and
    `steps_follow` before the first step.

    Args:
        device: Of the training. On CUDA all is counted that torch allocates there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network, self._counts = 0, False
        self._before = _resident_bytes()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def data_follows(self) -> None:
        """Note that what was allocated up to here belongs to the network."""
        self._network = _resident_bytes() - self._before

    def steps_follow(self) -> None:
        """Note that what was allocated since belongs to the data."""
        self._before = _resident_bytes()
        self._counts = _forget_peak()

    def peak_gib(self) -> float | None:
        """Return the most that network and steps held at once so far; None where none counts."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / GIB
        if not self._counts:
            return None
        return max(self._network + _peak_bytes() - self._before, 0) / GIB


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _forget_peak() -> bool:
    """Begin to count anew; False where the system does not count, or not for this process."""
    try:
        FORGET.write_text("5")
        return PEAK in STATUS.read_text()
    except OSError:
        return False


def _peak_bytes() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(PEAK))
    return 1024 * int(line.split()[1])
