"""Batches for training and validation, made ahead by worker processes.

The batch of a step is a pure function of seed and step: neither the number of workers nor an
interruption changes it. On the CPU the workers augment; for a CUDA device they deliver loaded
patches and draws, and the device augments the next batch while it trains on the current one. Cases
that fit stay on the device: workers then only draw, and the device cuts as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from selfseg.errors import DatasetError
from selfseg.execution.resources import free_memory_gib
from selfseg.loading.held import FREE_SHARE, HeldCases, hold_on_device
from selfseg.loading.items import Batch, LoadedBatch, Made
from selfseg.loading.on_device import on_device
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.source import BatchSource
from selfseg.loading.workers import default_loader_workers, load_ahead
from selfseg.records.plan import Configuration
from selfseg.words import counted

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

# Share of the free main memory that loaded validation batches may fill: those of nnU-Net's default
# 3D plan take 1.2 GiB.
HELD_SHARE = 0.1


class TimedBatches(Iterator[Batch], Protocol):
    """What a training takes its batches from."""

    @property
    def waited_s(self) -> float:
        """Seconds that data were waited for so far."""
        ...


class _Fetched(Iterator[Made]):
    """Passes items on, and counts the seconds until each one came, from the second one on.

    The first one also waits for processes to start, which says nothing of how fast they are.
    """

    def __init__(self, items: Iterator[Made]) -> None:
        self._items = items
        self._has_begun = False
        self.waited_s = 0.0

    def __next__(self) -> Made:
        began_s = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.waited_s += time.perf_counter() - began_s if self._has_begun else 0.0
            self._has_begun = True


class Batches(Iterator[Batch]):
    """Batches, one after the other, and how long data were waited for."""

    def __init__(
        self,
        items: Iterator[Made],
        source: BatchSource,
        device: torch.device,
        held: HeldCases | None = None,
    ) -> None:
        self._fetched = _Fetched(items)
        finish = _finished(self._fetched)
        self._made = finish if source.finish else on_device(self._fetched, source, device, held)

    @property
    def waited_s(self) -> float:
        """Seconds waited so far; neither starting nor augmenting on a CUDA device is waiting."""
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

    def _items(self, source: BatchSource) -> Iterator[Made]:
        yield from self._held
        left = range(len(self._held), self._steps)
        pin = self._device.type == "cuda"
        for item in load_ahead(source, left, workers=self._workers, pin=pin) if left else ():
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

    Call it as seldom as can be: workers start, and cases that fit are brought to the device or to
    main memory.

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
    share = None if part is None else FREE_SHARE / 2  # two data sets, one for each part
    held = hold_on_device(cases, device, share)
    if held is None:
        cases.hold_in_memory()
    source = BatchSource(
        configuration,
        cases,
        seed=seed,
        augment=True,
        finish=device.type == "cpu",
        cut=held is None,
        part=part,
    )
    items = load_ahead(source, steps, workers=workers, pin=device.type == "cuda")
    return Batches(items, source, device, held)


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


def _open(
    folder: Path, ids: Sequence[str], previous: PreviousStage | None, maps: Path | None
) -> CaseFolder:
    """Open the cases that samples can be cut from."""
    usable = tuple(ids) if previous is None else previous.with_boxes(ids)
    if previous is not None and ids and not usable:
        raise DatasetError(
            f"{previous.folder}: the previous stage has found nothing in any of "
            f"{counted(len(ids), 'case')}",
            remedy="Train the previous stage for longer, or lower crop.smallest_ml in the plan.",
        )
    if len(usable) < len(ids):
        without = counted(len(ids) - len(usable), "case")
        log.warning("No samples from %s: nothing was found there", without)
    return CaseFolder(folder, usable, previous, maps)


def _finished(items: Iterator[Made]) -> Iterator[Batch]:
    for item in items:
        assert isinstance(item, Batch)
        yield item
