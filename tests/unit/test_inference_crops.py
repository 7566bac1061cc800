"""Crops pasted back: the mean where they overlap, the previous stage's answer elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from targets import nested, plain
from torch import Tensor

from selfseg.inference.crops import CERTAIN, paste_crops
from selfseg.inference.logit_store import LogitStore
from selfseg.records.crop import Crop
from selfseg.records.dataset import Targets
from selfseg.records.geometry import Box

BOXES = (
    Box(lower=(0, 1, 1), upper=(4, 5, 5)),
    Box(lower=(2, 3, 4), upper=(6, 8, 9)),
)
LABEL = np.zeros((6, 9, 12), np.int16)
LABEL[5, 8, 10:] = 1  # too small for a crop
LABEL[0, 7:, 11] = 2
LABEL[3, 3, 3] = 2  # within a crop


def pasted(targets: Targets, crop: Crop, boxes: tuple[Box, ...] = BOXES) -> Tensor:
    def segment(box: Box) -> Tensor:
        value = 1.0 + 2.0 * boxes.index(box)
        return torch.full((targets.outputs, *box.shape), value)

    cpu = torch.device("cpu")
    return paste_crops(
        LABEL, boxes, segment, crop=crop, targets=targets, store=LogitStore(), device=cpu
    )


def test_crops_lie_where_they_were_cut_and_overlaps_are_averaged() -> None:
    found = pasted(plain(2), Crop())
    expected = np.full(LABEL.shape, -1.0)
    expected[BOXES[0].slices], expected[BOXES[1].slices] = 1.0, 3.0
    expected[2:4, 3:5, 4] = 2.0
    inside = expected > 0
    for channel in found.numpy():
        np.testing.assert_allclose(channel[inside], expected[inside])


def test_outside_what_is_of_interest_is_not_there() -> None:
    found = pasted(plain(2), Crop())
    outside = np.ones(LABEL.shape, bool)
    for box in BOXES:
        outside[box.slices] = False
    assert (found.argmax(0).numpy()[outside] == 0).all()
    assert (found[0].numpy()[outside] == CERTAIN).all()


def test_outside_other_labels_are_those_of_the_previous_stage() -> None:
    found = pasted(plain(2), Crop(labels=("label 1",))).argmax(0).numpy()
    assert (found[0, 7:, 11] == 2).all()
    assert found[3, 3, 3] == 0  # the crop decides there: all logits alike
    assert (found[5, 8, 10:] == 0).all()
    assert np.count_nonzero(found == 2) == 2


def test_regions_of_other_labels_stay_as_well() -> None:
    found = pasted(nested(), Crop(labels=("label 1",))).numpy()
    assert (found[:2, 0, 7:, 11] == CERTAIN).all()  # label 2 is in whole and core
    assert (found[2, 0, 7:, 11] == -CERTAIN).all()
    assert (found[:, 5, 8, 10:] == -CERTAIN).all()


def test_without_a_crop_all_is_background() -> None:
    found = pasted(plain(2), Crop(), boxes=())
    assert not found.argmax(0).any()
