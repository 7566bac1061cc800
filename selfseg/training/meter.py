"""Losses and overlap of an epoch, collected on the device so that no step has to wait for it."""

from __future__ import annotations

import torch
from torch import Tensor

from selfseg.losses.view import member_masks
from selfseg.records.dataset import Targets


class LossMeter:
    """Mean of the finite losses, and how many of the latest were not finite.

    A loss that is not a number ruins the weights at once, except in float16, where the scaler
    skips that step; so `tolerated` of them in a row are allowed.
    """

    def __init__(self, device: torch.device, *, tolerated: int) -> None:
        self.tolerated = tolerated
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._broken = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor) -> None:
        """Take the loss of a step, without waiting for it."""
        finite = loss.isfinite()
        self._sum += torch.where(finite, loss, 0.0)
        self._count += finite
        self._broken += 1
        self._broken *= ~finite

    def read(self) -> tuple[float, int]:
        """Return sum and number of the finite losses; waits for the device."""
        return float(self._sum), int(self._count)

    def set(self, total: float, count: int) -> None:
        """Go on from a sum and a number."""
        self._sum.fill_(total)
        self._count.fill_(count)

    def mean(self) -> float:
        """Mean of the finite losses (nan without any); waits for the device."""
        total, count = self.read()
        return total / count if count else float("nan")

    def has_diverged(self) -> bool:
        """Tell whether more of the latest losses than tolerated are no numbers; waits."""
        return int(self._broken) > self.tolerated


class DiceMeter:
    """Dice `2·tp / (2·tp + fp + fn)` of each label or region, counted over all that is added.

    Voxels that are not annotated do not count.
    """

    def __init__(self, targets: Targets, device: torch.device) -> None:
        self._targets = targets
        self._counts = torch.zeros(3, len(targets.names), dtype=torch.long, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count logits (b, k, *D) against label indices (b, *D)."""
        target = target.flatten(1)
        if self._targets.regions:
            predicted = logits.flatten(2) > 0
        else:
            predicted = member_masks(logits.argmax(dim=1).flatten(1), self._targets.members)
        if self._targets.ignore_index is not None:
            predicted = predicted & (target != self._targets.ignore_index)[:, None]
        reference = member_masks(target, self._targets.members)
        for row, mask in enumerate((predicted & reference, predicted, reference)):
            self._counts[row] += mask.sum(dim=(0, 2))

    def dice(self) -> tuple[float | None, ...]:
        """Return the Dice of each; None where neither map has it. Waits for the device."""
        return tuple(
            2 * both / (predicted + present) if predicted + present else None
            for both, predicted, present in self._counts.T.tolist()
        )
