"""A fine stage in prediction: crops around components are segmented and pasted back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfseg.inference.logit_store import LogitStore
from selfseg.records.crop import Crop
from selfseg.records.dataset import Targets
from selfseg.records.geometry import Box

# Logit outside of the crops: there the previous stage has decided.
CERTAIN = 10.0


def paste_crops(
    label: npt.NDArray[np.integer],
    boxes: Sequence[Box],
    segment: Callable[[Box], Tensor],
    *,
    crop: Crop,
    targets: Targets,
    store: LogitStore,
    device: torch.device,
) -> Tensor:
    """Return the logits (k, Z, Y, X) of a whole image from those of its crops.

    Where crops overlap their mean counts. Outside of all crops the labels of interest are not
    there (a component too small for a crop is noise), and others are what the previous stage says.

    Args:
        label: Label indices (Z, Y, X) of the previous stage.
        boxes: The crops.
        segment: Returns the logits (k, z, y, x) of a crop.
        crop: Says which labels are of interest.
        targets: What the logits mean.
        store: Where the logits may lie.
        device: Where they are wanted.
    """
    covered = np.zeros(label.shape, np.uint16)
    for box in boxes:
        covered[box.slices] += 1
    total = store.allocate((targets.outputs, *label.shape), device)
    _fill_outside(total, np.where(covered == 0, kept_labels(label, crop, targets), -1), targets)
    for box in boxes:
        share = 1 / torch.from_numpy(covered[box.slices].astype(np.float32))
        part = segment(box)
        store.add(total, box.slices, part * share.to(part.device, part.dtype))
    store.release(total)
    return total


def kept_labels(
    label: npt.NDArray[np.integer], crop: Crop, targets: Targets
) -> npt.NDArray[np.integer]:
    """Return label indices without the labels of interest, which only crops can show."""
    if crop.labels is None:
        return np.zeros_like(label)
    names = [item.name for item in targets.labels]
    wanted = [1 + names.index(name) for name in crop.labels]
    return np.where(np.isin(label, wanted), 0, label)


def _fill_outside(total: Tensor, label: npt.NDArray[np.integer], targets: Targets) -> None:
    """Write logits that are certain of label indices (Z, Y, X); nothing where these are −1."""
    for channel in range(len(total)):
        if targets.regions:
            here = np.isin(label, targets.members[channel])
            total[channel][torch.from_numpy(~here & (label >= 0)).to(total.device)] = -CERTAIN
        else:
            here = label == channel
        total[channel][torch.from_numpy(here).to(total.device)] = CERTAIN
