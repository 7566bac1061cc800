"""Samples of a fine stage are cut within the boxes, foreground or not, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trainingdata import make_configuration, write_case

from selfseg.errors import DatasetError
from selfseg.io.store import save_array
from selfseg.loading.areas import area_of
from selfseg.loading.batches import training_batches, validation_batches
from selfseg.loading.patches import PreviousStage
from selfseg.records.augmentation import Augmentation
from selfseg.records.geometry import Box

CPU = torch.device("cpu")
SHAPE, PATCH = (24, 30, 28), (4, 6, 6)
BOXES = (
    Box(lower=(2, 3, 4), upper=(10, 12, 13)),
    Box(lower=(14, 15, 16), upper=(22, 25, 26)),
)
NO_CHANGE = Augmentation.model_validate(
    {name: 0.0 for name in Augmentation.model_fields if name.endswith("_p")}
)


def make_case(folder: Path, name: str) -> None:
    """Write a case whose three channels are the voxel's own position."""
    label = np.zeros(SHAPE, np.int16)
    label[4:7, 6:9, 7:10] = 1  # in the first box
    label[20:23, 22:27, 20:27] = 2  # reaches out of the second one
    label[0:2, 26:30, 0:3] = 1  # in no box
    write_case(folder, name, np.indices(SHAPE), label)
    save_array(np.zeros(SHAPE, np.int16), folder / "previous" / f"{name}.b2nd", patch=PATCH)


@pytest.fixture
def stage(tmp_path: Path) -> PreviousStage:
    (tmp_path / "previous").mkdir()
    for name in ("a", "b"):
        make_case(tmp_path, name)
    return PreviousStage(tmp_path / "previous", labels=2, boxes={"a": BOXES, "b": ()})


def corners(stage: PreviousStage, cases: tuple[str, ...], *, training: bool) -> np.ndarray:
    """Return first voxels (n, 3) of many samples."""
    options = {"seed": 4, "workers": 0, "device": CPU, "previous": stage}
    configuration = make_configuration(PATCH, batch=3, channels=3, augmentation=NO_CHANGE)
    make = training_batches if training else validation_batches
    steps = range(60) if training else 60
    batches = make(configuration, stage.folder.parent, cases, steps=steps, **options)  # type: ignore[arg-type]
    return np.concatenate([batch.image[:, :3, 0, 0, 0].numpy() for batch in batches])


@pytest.mark.parametrize("training", [True, False])
def test_samples_lie_in_boxes_and_all_boxes_are_used(
    stage: PreviousStage, *, training: bool
) -> None:
    found = corners(stage, ("a",), training=training)
    inside = [((found >= box.lower) & (found + PATCH <= box.upper)).all(axis=1) for box in BOXES]
    assert (inside[0] | inside[1]).all()
    assert 0.3 < inside[0].mean() < 0.7


def test_without_boxes_samples_lie_anywhere(stage: PreviousStage) -> None:
    found = corners(PreviousStage(stage.folder, 2), ("a",), training=True)
    assert found.min() == 0
    assert (found.max(axis=0) == np.subtract(SHAPE, PATCH)).all()


def test_a_case_in_which_nothing_was_found_gives_no_samples(
    stage: PreviousStage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        both = corners(stage, ("a", "b"), training=True)
    assert "No samples from 1 case: " in caplog.text
    assert np.array_equal(both, corners(stage, ("a",), training=True))
    with pytest.raises(DatasetError, match="found nothing in any of 1 case\n"):
        corners(stage, ("b",), training=True)


def test_an_area_knows_the_foreground_within(stage: PreviousStage) -> None:
    locations = np.array([(4, 6, 7), (1, 26, 0), (21, 24, 25), (21, 25, 25), (3, 3, 4), (9, 0, 0)])
    area = area_of(SHAPE, locations.astype(np.int32), (2, 2), 2, BOXES[0])
    assert (area.lower, area.shape) == ((2, 3, 4), (8, 9, 9))
    assert (area.counts, area.annotated) == ((1, 0), 1)
    assert area.locations.tolist() == [[4, 6, 7], [3, 3, 4]]
    second = area_of(SHAPE, locations.astype(np.int32), (2, 2), 2, BOXES[1])
    assert (second.counts, second.annotated) == ((0, 1), 0)


def test_forced_samples_show_foreground_of_their_box(stage: PreviousStage) -> None:
    locations = np.add(np.argwhere(np.ones((2, 2, 2))), (4, 6, 7)).astype(np.int32)
    area = area_of(SHAPE, locations, (8,), 0, BOXES[0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        corner = area.draw_corner(PATCH, PATCH, rng, forced=True)
        inside = (locations >= corner) & (locations < np.add(corner, PATCH))
        assert inside.all(axis=1).any()
