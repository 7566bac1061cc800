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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from selfseg.augmentation.gpu import apply_batch
from selfseg.errors import DatasetError, DeviceError
from selfseg.execution.processes import default_workers
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.source import (
    Batch,
    BatchSource,
    Failure,
    Item,
    LoadedBatch,
    masked_channels,
    segmented_part,
    with_previous,
)
from selfseg.records.plan import Configuration

__all__ = ["Batch", "default_loader_workers", "training_batches", "validation_batches"]

log = logging.getLogger(__name__)

BATCHES_AHEAD = 3  # of each worker: covers the slower batches (rotated samples) of a mixed stream


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
) -> Iterator[Batch]:
    """Yield the augmented batches of the given steps; a resumed training starts the range later.

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
) -> Iterator[Batch]:
    """Yield batches without random transforms, sampled as in training; the same at each call.

    Args and errors are those of `training_batches`; `steps` counts the batches.
    """
    cases = _open(folder, case_ids, previous, maps)
    source = BatchSource(
        configuration, cases, seed=seed, augment=False, finish=device.type == "cpu"
    )
    return _batches(source, range(steps), workers=workers, device=device)


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


def _batches(
    source: BatchSource, steps: range, *, workers: int, device: torch.device
) -> Iterator[Batch]:
    items = _items(source, steps, workers=workers, pin=device.type == "cuda")
    if source.finish:
        return _finished(items)
    return _on_device(items, source, device)


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


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for the whole process: memory is cached for each stream apart."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _on_device(
    items: Iterator[Batch | LoadedBatch], source: BatchSource, device: torch.device
) -> Iterator[Batch]:
    """Copy and augment on a second stream, one batch ahead of the training."""
    configuration = source.configuration
    side = _side_stream(device)

    def prepare(item: Batch | LoadedBatch) -> Batch:
        assert isinstance(item, LoadedBatch)
        with torch.cuda.stream(side):
            batch = Batch(
                *apply_batch(
                    item.images,
                    item.labels,
                    item.draws,
                    configuration.patch,
                    device=device,
                    masked=masked_channels(configuration),
                )
            )
            maps = None if item.maps is None else item.maps.to(device, non_blocking=True)
            batch = segmented_part(replace(batch, maps=maps), configuration)
            return with_previous(batch, item.previous, source.cases.previous)

    def deliver(batch: Batch) -> Batch:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for tensor in (batch.image, batch.label, batch.maps):
            if tensor is not None:
                tensor.record_stream(current)
        return batch

    ahead: Batch | None = None
    for item in items:
        ready, ahead = ahead, None
        if ready is not None:
            ready = deliver(ready)
        ahead = prepare(item)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield deliver(ahead)


def _unchanged(item: Any) -> Any:
    return item


def _start_method() -> str:
    """Return `fork` where it is safe, so that workers share the cases held in memory."""
    return "fork" if sys.platform == "linux" else "spawn"
