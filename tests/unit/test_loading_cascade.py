"""Batches of a cascade: the previous segmentation lies where the image lies, on every path."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from trainingdata import make_configuration, make_folder

from selfseg.errors import DatasetError
from selfseg.io.store import open_array
from selfseg.loading.batches import training_batches
from selfseg.loading.items import Batch, LoadedBatch
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.source import BatchSource, with_previous
from selfseg.networks.one_hot import OneHotInput, one_hot
from selfseg.records.augmentation import Augmentation

CPU = torch.device("cpu")
PATCH = (8, 10, 12)
SPATIAL = Augmentation(mirror_axes=(0, 1, 2), rotation_p=0.8, scaling_p=0.8)
UNSPOILED = SPATIAL.model_copy(update={"previous_morphology_p": 0.0, "previous_removal_p": 0.0})


@pytest.fixture
def stage(tmp_path: Path) -> PreviousStage:
    """Cases whose previous segmentation is their reference."""
    ids = make_folder(tmp_path / "data", cases=3, shape=(12, 14, 16))
    folder = tmp_path / "data" / "previous"
    folder.mkdir()
    for case in ids:
        label = np.asarray(open_array(tmp_path / "data" / f"{case}_label.b2nd")[:])
        blosc2.asarray(np.maximum(label, 0), urlpath=str(folder / f"{case}.b2nd"), mode="w")
    return PreviousStage(folder, labels=2)


def batches(stage: PreviousStage, options: Augmentation, *, workers: int = 0) -> list[Batch]:
    made = training_batches(
        make_configuration(PATCH, batch=3, augmentation=options),
        stage.folder.parent,
        ("case_0", "case_1", "case_2"),
        steps=range(6),
        seed=4,
        workers=workers,
        device=CPU,
        previous=stage,
    )
    return list(made)


def test_it_lies_where_the_label_lies(stage: PreviousStage) -> None:
    shown = 0
    for batch in batches(stage, UNSPOILED):
        assert batch.image.shape == (3, 3, *PATCH)
        assert torch.equal(batch.image[:, 1:], one_hot(batch.label.unsqueeze(1), 2))
        shown += int(batch.label.count_nonzero())
    assert shown


def test_morphology_spoils_the_segmentation_alone(stage: PreviousStage) -> None:
    often = SPATIAL.model_copy(update={"previous_morphology_p": 1.0, "previous_removal_p": 1.0})
    differing = 0
    for batch in batches(stage, often):
        channels = batch.image[:, 1:]
        assert float(channels.sum(dim=1).max()) <= 1
        differing += int((channels != one_hot(batch.label.unsqueeze(1), 2)).sum())
    assert differing


def test_workers_make_the_same_batches(stage: PreviousStage) -> None:
    for here, there in zip(
        batches(stage, SPATIAL), batches(stage, SPATIAL, workers=2), strict=True
    ):
        assert torch.equal(here.image, there.image)


def test_a_batch_finished_on_the_device_has_the_same_channels(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, ("case_0", "case_1", "case_2"), stage)
    configuration = make_configuration(PATCH, batch=3, augmentation=SPATIAL)
    for step in range(6):
        done, loaded = (
            BatchSource(configuration, cases, seed=4, augment=True, finish=finish)[step]
            for finish in (True, False)
        )
        assert isinstance(done, Batch)
        assert isinstance(loaded, LoadedBatch)
        alone = Batch(done.image[:, :1], done.label)
        assert torch.equal(with_previous(alone, loaded.previous, stage).image, done.image)


def test_cases_in_memory_give_the_same(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, ("case_1",), stage)
    corner, shape = (-2, 3, 9), (6, 8, 10)
    before = cases.cut_previous(0, corner, shape)
    assert cases.hold_in_memory(10**9)
    assert isinstance(cases[0].previous, np.ndarray)
    after = cases.cut_previous(0, corner, shape)
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)
    assert (after[:2] == -1).all()  # outside the image


def test_a_segmentation_of_another_shape_is_refused(stage: PreviousStage) -> None:
    blosc2.asarray(np.zeros((3, 4, 5), np.int16), urlpath=f"{stage.folder}/case_1.b2nd", mode="w")
    with pytest.raises(DatasetError, match="case_1 consists of files that do not fit"):
        CaseFolder(stage.folder.parent, ("case_1",), stage)[0]


def test_a_damaged_segmentation_is_named(stage: PreviousStage) -> None:
    path = stage.folder / "case_1.b2nd"
    label = np.random.default_rng(0).integers(0, 3, (12, 14, 16)).astype(np.int16)
    blosc2.asarray(label, urlpath=str(path), mode="w")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[300:middle] = b"\xff" * (middle - 300)
    path.write_bytes(bytes(content))
    cases = CaseFolder(stage.folder.parent, ("case_1",), stage)
    with pytest.raises(DatasetError, match=r"case_1.b2nd: cannot be decompressed") as caught:
        cases.cut_previous(0, (0, 0, 0), (12, 14, 16))
    assert "train again" in caught.value.remedy


@pytest.mark.parametrize("spatial", [(5, 6), (4, 5, 6)])
def test_a_network_takes_label_indices(spatial: tuple[int, ...]) -> None:
    label = torch.randint(0, 4, (2, 1, *spatial)).float()
    image = torch.randn(2, 2, *spatial)
    kept: list[torch.Tensor] = []

    class Keep(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            kept.append(x)
            return (x,)

    OneHotInput(Keep(), 3)(torch.cat([image, label], dim=1))
    expected = torch.nn.functional.one_hot(label[:, 0].long(), 4).movedim(-1, 1)[:, 1:]
    assert torch.equal(kept[0], torch.cat([image, expected.float()], dim=1))
