"""Cases that stay on a CUDA device for a whole training, and patches cut from them there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfseg.loading.items import LoadedBatch, Place, PlacedBatch
from selfseg.loading.patches import PAD_IMAGE, PAD_LABEL, CaseFolder, overlap
from selfseg.loading.sampling import Corner
from selfseg.words import counted

log = logging.getLogger(__name__)

# Share of the device memory that is free once the network was tried out; the rest is for what a
# trial does not make: the optimizer's moments, the loss, patches that are augmented.
FREE_SHARE = 0.25


@dataclass(frozen=True)
class HeldCases:
    """Cases on a device, in the order of their folder.

    Attributes:
        images: (c, z, y, x) float32 each.
        labels: (z, y, x) int16 each, -1 outside the nonzero mask.
    """

    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def load(self, batch: PlacedBatch) -> LoadedBatch:
        """Cut a batch; what needs no filling is not copied."""
        pairs = [self._cut(place, batch) for place in batch.places]
        return LoadedBatch(
            [image for image, _ in pairs], [label for _, label in pairs], list(batch.draws)
        )

    def _cut(self, place: Place, batch: PlacedBatch) -> tuple[Tensor, Tensor]:
        image = _cut(self.images[place.case], place, batch.context, fill=PAD_IMAGE)
        label = _cut(self.labels[place.case], place, batch.context, fill=PAD_LABEL)
        return (image[:, 0], label[0]) if batch.flat else (image, label)


def hold_on_device(
    cases: CaseFolder, device: torch.device, share: float | None = None
) -> HeldCases | None:
    """Bring all cases to a device if they fit beside the network, which was tried out there.

    Args:
        cases: Of a training.
        device: Where it trains.
        share: Of the free memory that they may take; None: `FREE_SHARE`.

    Returns:
        None for a CPU, for cases with segmentations of a previous stage or maps for the loss (both
        are prepared by workers), and where there is not enough memory.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    if device.type == "cpu" or cases.previous is not None or cases.maps is not None:
        return None
    needed = cases.bytes_in_memory()
    if needed > (FREE_SHARE if share is None else share) * free_bytes(device):
        return None
    images, labels = [], []
    try:
        for case in cases.ids:
            whole = cases.whole(case)
            images.append(to_device(whole.image[:], device))
            labels.append(to_device(whole.label[:], device))
    except torch.OutOfMemoryError:  # another program was faster
        return None
    shown = counted(len(images), "case")
    log.info("Data on the device: %s, %.1f GiB", shown, needed / 2**30)
    return HeldCases(tuple(images), tuple(labels))


def free_bytes(device: torch.device) -> float:
    """Return the memory of a CUDA device that no program has taken."""
    return float(torch.cuda.mem_get_info(device)[0])


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device, and wait until it is there: other streams read it."""
    there = torch.from_numpy(array).to(device)
    torch.cuda.synchronize(device)
    return there


def _cut(array: Tensor, place: Place, context: int, *, fill: int) -> Tensor:
    """Cut a box out of the trailing axes; `CaseFolder.cut` says what lies outside."""
    depth = array.shape[-3]
    low, high = place.corner[0] - context, place.corner[0] + place.shape[0] + context
    first, last = (max(low, 0), min(high, depth)) if context else (low, high)
    corner, shape = (first, *place.corner[1:]), (last - first, *place.shape[1:])
    box = _filled(array, corner, shape, fill)
    if (first, last) == (low, high):
        return box
    slices = box.unbind(-3)
    before, after = slices[:1] * (first - low), slices[-1:] * (high - last)
    return torch.stack([*before, *slices, *after], dim=-3)


def _filled(array: Tensor, corner: Corner, shape: Sequence[int], fill: int) -> Tensor:
    lead = (slice(None),) * (array.dim() - len(shape))
    found = overlap(corner, shape, array.shape[len(lead) :])
    if found is not None and found.is_whole:
        return array[(*lead, *found.source)]
    box = array.new_full((*array.shape[: len(lead)], *shape), fill)
    if found is not None:
        box[(*lead, *found.target)] = array[(*lead, *found.source)]
    return box
