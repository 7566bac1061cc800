"""What the terms of a loss look at, at one resolution: each quantity is made once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from selfseg.losses.maps import Maps
from selfseg.records.dataset import Targets

NO_MAPS = Maps()


class View:
    """Logits against labels; all in float32 or better, since bfloat16 sums lose digits.

    Below n is the number of foreground labels or regions, and *D the axes of space.

    Attributes:
        logits: (b, k, *D).
        labels: Label indices (b, *D).
        targets: What the labels mean.
        maps: What else was made of the reference; at full resolution only.
        distances: Predicted signed distances (b, m, *D) in (−1, 1), where there is a head for them.
        step: Of the training.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        targets: Targets,
        maps: Maps = NO_MAPS,
        *,
        distances: Tensor | None = None,
        step: int = 0,
    ) -> None:
        self.logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.labels = labels
        self.targets = targets
        self.maps = maps
        self.distances = distances
        self.step = step

    @cached_property
    def known(self) -> Tensor | None:
        """Which voxels are annotated, bool (b, 1, *D); None where all are."""
        if self.targets.ignore_index is None:
            return None
        return (self.labels != self.targets.ignore_index)[:, None]

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities of all outputs (b, k, *D): softmax, or sigmoid of regions."""
        return self.logits.sigmoid() if self.targets.regions else self.logits.softmax(dim=1)

    @cached_property
    def foreground(self) -> Tensor:
        """Probabilities of foreground labels or regions (b, n, *D), 0 where not annotated."""
        own = self.probabilities if self.targets.regions else self.probabilities[:, 1:]
        return own if self.known is None else own * self.known

    @cached_property
    def reference(self) -> Tensor:
        """Foreground labels or regions as 0 and 1 (b, n, *D); 0 where not annotated."""
        return member_masks(self.labels, self.targets.members).to(self.logits.dtype)

    @cached_property
    def surprise(self) -> Tensor:
        """−log of the probability of the truth: (b, 1, *D), or (b, n, *D) by region.

        0 where not annotated.
        """
        if self.targets.regions:
            loss = F.binary_cross_entropy_with_logits(self.logits, self.reference, reduction="none")
            return loss if self.known is None else loss * self.known
        ignored = self.targets.ignore_index
        loss = F.cross_entropy(
            self.logits,
            self.labels,
            reduction="none",
            ignore_index=-100 if ignored is None else ignored,
        )
        return loss[:, None]

    def of(self, labels: Sequence[str] | None, values: Tensor) -> Tensor:
        """Return maps (b, n, *D) of the named labels or regions only; None keeps all."""
        if labels is None:
            return values
        parts = values.unbind(1)  # a list as index would be copied to the device, which waits
        return torch.stack([parts[self.targets.names.index(name)] for name in labels], dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of (b, m, *D) over annotated voxels; 0 without any."""
        if self.known is None:
            return values.mean()
        count = self.known.sum() * values.shape[1]
        return (values * self.known).sum() / count.clamp_min(1)


def member_masks(labels: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
    """Return boolean masks (b, n, *D) of labels (b, *D): of n groups of labels, may overlap.

    A group without labels is nowhere.
    """
    masks = []
    for group in members:
        mask = labels == group[0] if group else torch.zeros_like(labels, dtype=torch.bool)
        for index in group[1:]:
            mask |= labels == index
        masks.append(mask)
    return torch.stack(masks, dim=1)
