"""Overlap counted during training: of labels and regions, where the reference is annotated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from targets import nested, plain

from selfseg.records.dataset import Targets
from selfseg.training.meter import DiceMeter


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    return float(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))


@pytest.mark.parametrize("targets", [plain(2), plain(2, ignore=9), nested(), nested(ignore=9)])
def test_dice_is_pooled_over_all_annotated_voxels(targets: Targets) -> None:
    rng = np.random.default_rng(0)
    highest = len(targets.labels) + (targets.ignore is not None)
    logits = rng.normal(size=(3, 2, 3, 6, 5)).astype(np.float32)  # three batches of two samples
    labels = rng.integers(0, highest + 1, (3, 2, 6, 5))
    meter = DiceMeter(targets, torch.device("cpu"))
    for scores, label in zip(logits, labels, strict=True):
        meter.add(torch.from_numpy(scores), torch.from_numpy(label))
    known = labels != targets.ignore_index if targets.ignore else np.ones(labels.shape, bool)
    for index, (found, members) in enumerate(zip(meter.dice(), targets.members, strict=True)):
        winner = logits[:, :, index] > 0 if targets.regions else logits.argmax(2) == members[0]
        expected = dice(winner & known, np.isin(labels, members) & known)
        assert found == pytest.approx(expected)


def test_what_occurs_only_where_nothing_is_annotated_has_no_dice() -> None:
    meter = DiceMeter(plain(1, ignore=9), torch.device("cpu"))
    logits = torch.tensor([[[0.0, 0.0], [1.0, -1.0]]])
    meter.add(logits, torch.tensor([[2, 0]]))
    assert meter.dice() == (None,)
