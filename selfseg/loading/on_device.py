"""Bring patches to a CUDA device, or cut them there, and augment them while it trains on others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch

from selfseg.augmentation.gpu import apply_batch
from selfseg.loading.held import HeldCases
from selfseg.loading.items import Batch, LoadedBatch, Made, PlacedBatch
from selfseg.loading.source import BatchSource, masked_channels, segmented_part, with_previous


def on_device(
    items: Iterator[Made],
    source: BatchSource,
    device: torch.device,
    held: HeldCases | None = None,
) -> Iterator[Batch]:
    """Copy or cut, and augment, on a second stream, one batch ahead of the training.

    Args:
        items: Loaded batches; or placed ones of `held` cases.
        source: Where they come from.
        device: Where they are wanted.
        held: Cases that lie there.
    """
    side = _side_stream(device)
    ahead: Batch | None = None
    for item in items:
        ready, ahead = ahead, None
        if ready is not None:
            ready = _deliver(ready, side, device)
        with torch.cuda.stream(side):
            ahead = _prepare(item, source, device, held)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield _deliver(ahead, side, device)


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for the whole process: memory is cached for each stream apart."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _prepare(
    item: Made, source: BatchSource, device: torch.device, held: HeldCases | None
) -> Batch:
    """Give the device what makes a batch, without waiting for it."""
    if isinstance(item, PlacedBatch):
        assert held is not None
        item = held.load(item)
    assert isinstance(item, LoadedBatch)
    configuration = source.configuration
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


def _deliver(batch: Batch, side: torch.cuda.Stream, device: torch.device) -> Batch:
    """Let the training's stream begin with a batch when it is made."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(side)
    for tensor in (batch.image, batch.label, batch.maps):
        if tensor is not None:
            tensor.record_stream(current)
    return batch
