"""How much memory a training takes: of the device where there is one, else of the process."""

from __future__ import annotations

from pathlib import Path

import torch

from selfseg.execution.resources import Freed, free_memory_gib, handle_freed_memory

GIB = 2**30
FIRST_STEPS = 3  # by then an optimizer has all its moments
# Linux counts a process's most resident memory, and forgets it when told so. Pages of files, such
# as the code of libraries and cases that are mapped, and batches that loaders share are in that
# count; they are no part of a step.
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK, OWN, OTHERS = "VmHWM:", "RssAnon:", ("RssFile:", "RssShmem:")


class MemoryUse:
    """Counts weights and steps, not the cases that a loader holds in memory between them.

    Make it before the network is built, call `data_follows` before the loader starts,
    `steps_follow` before the first step and `step_made` after each. What it counts is what a plan
    estimates: neither the program with its libraries, nor the data.

    The first steps on a CPU show what they need: what they free goes back at once. From then on
    memory that is freed is kept for the next step, if as much again is free; it counts no longer.

    Args:
        device: Of the training. On CUDA what torch holds there counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network, self._counts = 0, False
        self._steps = 0
        self._shown_gib: float | None = None  # once freed memory is no longer returned at once
        if device.type != "cuda":
            handle_freed_memory(Freed.RETURNED)  # an earlier training may have kept it
            _make_a_step()
        self._before = self._held()

    def data_follows(self) -> None:
        """Note that what was allocated up to here belongs to the network."""
        self._network = self._held() - self._before

    def steps_follow(self) -> None:
        """Note that what was allocated since belongs to the data."""
        self._before = self._held()
        if self._device.type == "cuda":  # forget the trials of layouts and of cuDNN's algorithms
            torch.cuda.reset_peak_memory_stats(self._device)
            self._counts = True
        else:
            self._counts = _forget_peak()

    def step_made(self) -> None:
        """Note a step; the first ones decide whether freed memory is kept from then on."""
        self._steps += 1
        if self._device.type == "cuda" or self._steps != FIRST_STEPS:
            return
        self._shown_gib = peak_gib = self.peak_gib()
        is_enough = peak_gib is not None and free_memory_gib() > peak_gib
        handle_freed_memory(Freed.KEPT if is_enough else Freed.USUAL)

    def peak_gib(self) -> float | None:
        """Return the most that network and steps held at once so far; None where none counts."""
        if self._shown_gib is not None:
            return self._shown_gib
        if not self._counts:
            return None
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _bytes(PEAK) - sum(map(_bytes, OTHERS))
        return max(self._network + peak - self._before, 0) / GIB

    def _held(self) -> int:
        """Return the bytes that are held now."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _own_bytes()


def _make_a_step() -> None:
    """Let torch load what it loads at the first step of an optimizer: some 70 MiB of programs."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW([weight]).step()


def _own_bytes() -> int:
    """Return what the process holds and no file has; 0 where the system does not tell."""
    return _bytes(OWN) if STATUS.exists() else 0


def _forget_peak() -> bool:
    """Begin to count anew; False where the system does not count, or not for this process."""
    try:
        FORGET.write_text("5")
        return all(mark in STATUS.read_text() for mark in (PEAK, OWN, *OTHERS))
    except OSError:
        return False


def _bytes(mark: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(mark)), 0)
