"""Scores of an epoch on validation patches: loss, and Dice pooled over all of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import nn

from selfseg.loading.batches import ValidationBatches
from selfseg.records.dataset import Targets
from selfseg.training.meter import DiceMeter
from selfseg.training.state import TrainState
from selfseg.training.step import averaged
from selfseg.training.trials import mixed_precision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochScores:
    """Validation loss, and Dice per label or region (None: in no patch); empty without cases."""

    loss: float | None = None
    dice: tuple[float | None, ...] = ()

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that occur."""
        known = [value for value in self.dice if value is not None]
        return sum(known) / len(known) if known else None


@torch.no_grad()
def score_epoch(
    state: TrainState, batches: ValidationBatches | None, loss: nn.Module, targets: Targets
) -> EpochScores:
    """Score the weights that prediction would use on the same patches every epoch.

    The Dice is `2·tp / (2·tp + fp + fn)` with counts over all patches; it is a guide, since patches
    overlap objects by chance. The real scores come at the end, on whole cases.
    """
    if batches is None:
        return EpochScores()
    overlap = DiceMeter(targets, state.device)
    total = torch.zeros((), device=state.device)
    state.network.eval()
    state.network.zero_grad(set_to_none=True)  # they lie where the next call of a graph computes
    with averaged(state):
        for batch in batches:
            image = batch.image.contiguous(memory_format=state.layout)
            with mixed_precision(state.device, state.dtype):
                outputs = state.scoring(image)
                total += loss(outputs, batch.label, batch.maps)
            overlap.add(outputs[0], batch.label)
    state.tuning.train_(state.network)
    dice = overlap.dice()
    mean = float(total) / len(batches)
    if not math.isfinite(mean):
        log.warning("The validation loss is not a number; training goes on while its own loss is")
        return EpochScores(dice=dice)
    return EpochScores(loss=mean, dice=dice)
