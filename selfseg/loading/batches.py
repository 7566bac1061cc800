"""Batches for training and validation, made ahead by worker processes.

The batch of a step is a pure function of seed and step: neither the number of workers nor an
interruption changes it. On the CPU the workers augment; for a CUDA device they deliver loaded
patches and draws, and the device augments the next batch while it trains on the current one.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from selfseg.errors import DatasetError, DeviceError
from selfseg.execution.processes import default_workers
from selfseg.execution.resources import Freed, free_memory_gib, handle_freed_memory
from selfseg.loading.on_device import on_device
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.source import Batch, BatchSource, Failure, Item, LoadedBatch
from selfseg.records.plan import Configuration

__all__ = [
    "Batch",
    "Batches",
    "TimedBatches",
    "ValidationBatches",
    "default_loader_workers",
    "training_batches",
    "validation_batches",
]

log = logging.getLogger(__name__)

BATCHES_AHEAD = 3  # of each worker: covers the slower batches (rotated samples) of a mixed stream
# Share of the free main memory that loaded validation batches may fill: those of nnU-Net's default
# 3D plan take 1.2 GiB.
HELD_SHARE = 0.1


class TimedBatches(Iterator[Batch], Protocol):
    """What a training takes its batches from."""

    @property
    def waited_s(self) -> float:
        """Seconds that data were waited for so far."""
        ...


class _Fetched(Iterator[Batch | LoadedBatch]):
    """Passes items on, and counts the seconds until each one came."""

    def __init__(self, items: Iterator[Batch | LoadedBatch]) -> None:
        self._items = items
        self.waited_s = 0.0

    def __next__(self) -> Batch | LoadedBatch:
        began_s = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.waited_s += time.perf_counter() - began_s


class Batches(Iterator[Batch]):
    """Batches, one after the other, and how long data were waited for."""

    def __init__(
        self, items: Iterator[Batch | LoadedBatch], source: BatchSource, device: torch.device
    ) -> None:
        self._fetched = _Fetched(items)
        finish = _finished(self._fetched)
        self._made = finish if source.finish else on_device(self._fetched, source, device)

    @property
    def waited_s(self) -> float:
        """Seconds waited so far; giving a CUDA device the next batch to augment is no waiting."""
        return self._fetched.waited_s

    def __next__(self) -> Batch:
        return next(self._made)


class ValidationBatches:
    """Batches without random transforms, the same ones every time that they are gone through.

    What was loaded for a CUDA device is held in main memory for the next time, in order, as far as
    a share of the free memory goes: loading 2 × 128³ voxels takes longer than scoring them there.
    For a CPU nothing is held: scoring takes many times longer, and memory is counted.

    Args:
        open_: Makes the source; files are open only while batches are loaded.
        steps: Number of batches.
        workers: Processes that load what is not held.
        device: Where the batches are wanted.
    """

    def __init__(
        self, open_: Callable[[], BatchSource], steps: int, *, workers: int, device: torch.device
    ) -> None:
        self._open, self._steps, self._workers, self._device = open_, steps, workers, device
        self._held: list[LoadedBatch] = []
        self._room = 0.0 if device.type == "cpu" else HELD_SHARE * free_memory_gib() * 2**30

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        source = self._open()
        return Batches(self._items(source), source, self._device)

    def _items(self, source: BatchSource) -> Iterator[Batch | LoadedBatch]:
        yield from self._held
        left = range(len(self._held), self._steps)
        pin = self._device.type == "cuda"
        for item in _items(source, left, workers=self._workers, pin=pin) if left else ():
            if isinstance(item, LoadedBatch) and item.nbytes <= self._room:
                self._held.append(item)
                self._room -= item.nbytes
            else:
                self._room = 0.0  # those that are held are the first ones
            yield item


def training_batches(  # noqa: PLR0913 (what a batch depends on)
    configuration: Configuration,
    folder: Path,
    case_ids: Sequence[str],
    *,
    steps: range,
    seed: int,
    workers: int,
    device: torch.device,
    part: range | None = None,
    previous: PreviousStage | None = None,
    maps: Path | None = None,
) -> Batches:
    """Return the augmented batches of the given steps; a resumed training starts the range later.

    Call it as seldom as can be: workers start, and cases that fit are brought to memory.

    Args:
        configuration: Patch, batch and options.
        folder: Preprocessed cases.
        case_ids: Training cases.
        steps: Numbers of the steps to make.
        seed: Seed of the whole training.
        workers: Processes that prepare batches; 0 prepares them in this one.
        device: Where the batches are wanted.
        part: Samples of a batch that are made, its beginning or its end; None makes all.
        previous: Segmentations of the previous stage, in a cascade.
        maps: Folder of what the loss needs besides the labels.

    Raises:
        DatasetError: Cases are missing or damaged.
        DeviceError: A worker process died.
    """
    cases = _open(folder, case_ids, previous, maps)
    cases.hold_in_memory()
    source = BatchSource(
        configuration, cases, seed=seed, augment=True, finish=device.type == "cpu", part=part
    )
    return _batches(source, steps, workers=workers, device=device)


def validation_batches(  # noqa: PLR0913 (what a batch depends on)
    configuration: Configuration,
    folder: Path,
    case_ids: Sequence[str],
    *,
    steps: int,
    seed: int,
    workers: int,
    device: torch.device,
    previous: PreviousStage | None = None,
    maps: Path | None = None,
) -> ValidationBatches:
    """Return batches without random transforms, sampled as in training; the same at each call.

    Args and errors are those of `training_batches`; `steps` counts the batches.
    """

    def open_() -> BatchSource:
        cases = _open(folder, case_ids, previous, maps)
        return BatchSource(
            configuration, cases, seed=seed, augment=False, finish=device.type == "cpu"
        )

    return ValidationBatches(open_, steps, workers=workers, device=device)


def default_loader_workers(device: torch.device) -> int:
    """Return how many worker processes to use: one beside CPU training, else up to eight.

    On the CPU the training step takes all cores and a worker little of one: it makes a sample of
    40 × 56 × 40 voxels in about 4 ms. For a device workers only load: eight give some hundred
    patches of 128³ voxels a second, and each keeps finished batches in shared memory.
    """
    return 1 if device.type == "cpu" else min(8, max(1, default_workers() - 1))


def _open(
    folder: Path, ids: Sequence[str], previous: PreviousStage | None, maps: Path | None
) -> CaseFolder:
    """Open the cases that samples can be cut from."""
    usable = tuple(ids) if previous is None else previous.with_boxes(ids)
    if previous is not None and ids and not usable:
        raise DatasetError(
            f"{previous.folder}: the previous stage has found nothing in any of {len(ids)} cases",
            remedy="Train the previous stage for longer, or lower crop.smallest_ml in the plan.",
        )
    if len(usable) < len(ids):
        log.warning("%d cases give no samples: nothing was found in them", len(ids) - len(usable))
    return CaseFolder(folder, usable, previous, maps)


def _batches(source: BatchSource, steps: range, *, workers: int, device: torch.device) -> Batches:
    items = _items(source, steps, workers=workers, pin=device.type == "cuda")
    return Batches(items, source, device)


def _finished(items: Iterator[Batch | LoadedBatch]) -> Iterator[Batch]:
    for item in items:
        assert isinstance(item, Batch)
        yield item


def _items(
    source: BatchSource, steps: range, *, workers: int, pin: bool
) -> Iterator[Batch | LoadedBatch]:
    """Yield the items of the steps in order; errors of workers arrive with their cause."""
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD if workers else None,
        collate_fn=_unchanged,
        pin_memory=pin,
        generator=torch.Generator(),  # else the loader takes a number from torch's global stream
        multiprocessing_context=_start_method() if workers else None,
        worker_init_fn=_start_worker,
    )
    stream = _start(loader)
    while True:
        try:
            item = next(stream)
        except StopIteration:
            return
        except RuntimeError as error:
            if not re.search(r"DataLoader worker .*(exited|killed)", str(error)):
                raise
            raise DeviceError(
                f"a process that prepares training batches died ({error})",
                remedy="Memory or shared memory (/dev/shm) probably ran out: lower --workers; "
                "--workers 0 needs no extra process.",
            ) from error
        if isinstance(item, Failure):
            raise item.error
        yield item


def _start(loader: DataLoader[Item]) -> Iterator[Item]:
    """Start the workers, without torch's signal handler.

    The handler raises wherever the main thread happens to be. Without it, a dead worker is noticed
    within seconds where its batch is waited for, and can be explained there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _start_worker(_: int) -> None:
    """Handle freed memory as usual, while the training that forks it measures its first steps."""
    handle_freed_memory(Freed.USUAL)


def _unchanged(item: Any) -> Any:
    return item


def _start_method() -> str:
    """Return `fork` where it is safe, so that workers share the cases held in memory."""
    return "fork" if sys.platform == "linux" else "spawn"
