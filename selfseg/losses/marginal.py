"""A loss on a data set that annotates some of the labels only: the others count as background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from selfseg.records.dataset import Targets

IMPOSSIBLE = -1e4  # logit of a probability that is exactly 0 in float32


def marginal_logits(logits: Tensor, annotated: Sequence[bool], *, regions: bool) -> Tensor:
    """Return logits in which what is not annotated belongs to the background, or to nothing.

    Background gets the sum of its own probability and of those of all labels that are not
    annotated, which then have the probability 0 (marginal loss of partly labeled data, methods
    4.2). The probability of a region that is not annotated becomes 0 as well, so that with a
    reference of 0 it adds neither loss nor gradient. With everything annotated nothing changes.

    Args:
        logits: (b, k, *D) of background and labels, or of regions.
        annotated: For each label or region whether the data set annotates it.
        regions: Whether outputs are regions.
    """
    if all(annotated):
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    first, *others = logits.unbind(1)
    labels = [first, *others] if regions else others
    impossible = torch.full_like(first, IMPOSSIBLE)
    kept = [label if known else impossible for label, known in zip(labels, annotated, strict=True)]
    if regions:
        return torch.stack(kept, dim=1)
    missing = [label for label, known in zip(labels, annotated, strict=True) if not known]
    merged = torch.stack([first, *missing], dim=1).logsumexp(1)
    return torch.stack([merged, *kept], dim=1)


def annotated_in(targets: Targets, names: Sequence[str]) -> tuple[bool, ...]:
    """Tell of each label or region whether a data set with labels of these names annotates it."""
    folded = {name.casefold() for name in names}
    there = [label.name.casefold() in folded for label in targets.labels]
    return tuple(all(there[index - 1] for index in group) for group in targets.members)


class MarginalLoss(nn.Module):
    """A loss whose logits are marginalized first.

    Args:
        loss: (outputs, labels) → scalar.
        annotated: For each label or region whether the data set annotates it.
        regions: Whether outputs are regions.
    """

    def __init__(self, loss: nn.Module, annotated: Sequence[bool], *, regions: bool) -> None:
        super().__init__()
        self.loss = loss
        self.annotated = tuple(annotated)
        self.regions = regions

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the scalar loss of logits (b, k, *D), full resolution first, and label indices.

        In the indices (b, *D) what is not annotated is background.
        """
        marginal = [marginal_logits(o, self.annotated, regions=self.regions) for o in outputs]
        value: Tensor = self.loss(marginal, target)
        return value
