"""Maps for the loss lie where the label lies, on every path, and training uses them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from targets import plain
from trainingdata import make_configuration, make_folder
from trainingjobs import make_job

from selfseg.augmentation.cpu import place_maps
from selfseg.augmentation.draw import SampleDraw
from selfseg.io.store import open_array
from selfseg.loading.batches import training_batches, validation_batches
from selfseg.loading.items import Batch, LoadedBatch
from selfseg.loading.patches import CaseFolder
from selfseg.loading.source import BatchSource
from selfseg.losses.maps import DISTANCE_PARTS
from selfseg.preprocessing.loss_maps import prepare_maps
from selfseg.records.augmentation import Augmentation
from selfseg.records.loss import Loss
from selfseg.records.loss_maps import NO_SURFACE, OUTSIDE_IMAGE, needed_maps
from selfseg.records.loss_terms import (
    BlobDiceTerm,
    BoundaryTerm,
    CrossEntropyTerm,
    DiceTerm,
    SegmentTerm,
    SkeletonRecallTerm,
)
from selfseg.records.plan import Configuration
from selfseg.training.train import train

CPU = torch.device("cpu")
IDS = ("case_0", "case_1", "case_2")
LOSS = Loss(
    terms=(
        DiceTerm(),
        CrossEntropyTerm(),
        BlobDiceTerm(),
        BoundaryTerm(),
        SegmentTerm(),
        SkeletonRecallTerm(),
    )
)
MAPS = needed_maps(LOSS)
KINDS: list[str] = [item.kind for item in MAPS]
MIRRORED = Augmentation(mirror_axes=(0, 1), rotation_p=0.0, scaling_p=0.0)
TURNED = Augmentation(mirror_axes=(0, 1), rotation_p=0.9, scaling_p=0.9)


def make(root: Path, patch: tuple[int, ...], options: Augmentation) -> tuple[Configuration, Path]:
    make_folder(root, cases=3, shape=(12, 20, 24))
    folder = root / "maps"
    prepare_maps(
        IDS, root, folder, maps=MAPS, targets=plain(2), flat=len(patch) == 2, patch=patch,
        workers=1,
    )  # fmt: skip
    configuration = make_configuration(patch, batch=3, augmentation=options)
    return configuration.model_copy(update={"loss": LOSS}), folder


def batches(root: Path, configuration: Configuration, maps: Path) -> list[Batch]:
    made = training_batches(
        configuration, root, IDS, steps=range(8), seed=1, workers=0, device=CPU, maps=maps
    )
    return list(made)


def part(batch: Batch, kind: str) -> torch.Tensor:
    assert batch.maps is not None
    return batch.maps.chunk(len(KINDS), dim=1)[KINDS.index(kind)]


@pytest.mark.parametrize("patch", [(8, 10, 12), (16, 16)])
def test_mirrored_maps_lie_exactly_on_the_label(tmp_path: Path, patch: tuple[int, ...]) -> None:
    configuration, maps = make(tmp_path, patch, MIRRORED)
    shown = 0
    for batch in batches(tmp_path, configuration, maps):
        for index in (1, 2):
            mask = batch.label == index
            assert torch.equal(part(batch, "components")[:, index - 1] > 0, mask)
            inner = part(batch, "distance")[:, index - 1]
            assert bool((inner[mask] <= 0).all())
            line = part(batch, "segments")[:, index - 1] < 0
            assert bool(mask[line].all())
            shown += int(line.sum())
    assert shown


@pytest.mark.parametrize("patch", [(8, 10, 12), (16, 16)])
def test_turned_maps_lie_on_the_label_up_to_its_rim(tmp_path: Path, patch: tuple[int, ...]) -> None:
    configuration, maps = make(tmp_path, patch, TURNED)
    wrong = total = 0
    for batch in batches(tmp_path, configuration, maps):
        for index in (1, 2):
            mask, found = batch.label == index, part(batch, "components")[:, index - 1] > 0
            distance = part(batch, "distance")[:, index - 1].float() / DISTANCE_PARTS
            assert bool((distance[mask] < 1.5).all())
            wrong += int((mask ^ found).sum())
            total += int(mask.sum())
    assert total
    assert wrong < 0.2 * total


@pytest.mark.parametrize("options", [MIRRORED, TURNED], ids=["mirrored", "turned"])
def test_outside_the_image_no_distance_and_no_other_map_is_known(
    tmp_path: Path, options: Augmentation
) -> None:
    """A patch longer than the image: what is outside is marked, what is inside keeps its value."""
    configuration, maps = make(tmp_path, (24, 10, 12), options)
    largest = max(int(open_array(maps / f"{case}.b2nd")[:].astype(int)[2:4].max()) for case in IDS)
    for batch in batches(tmp_path, configuration, maps):
        distance = part(batch, "distance")
        outside = distance == OUTSIDE_IMAGE
        if options is MIRRORED:
            assert float(outside.float().mean()) == 0.5  # 12 slices of 24
        assert bool(outside.any(dim=(1, 2, 3, 4)).all())
        assert bool((distance[~outside].abs() <= largest).all())
        label = batch.label[:, None].expand_as(outside)
        assert not label[outside].any() or options is TURNED
        for kind in KINDS:
            assert kind == "distance" or not bool((part(batch, kind) == OUTSIDE_IMAGE).any())


def test_a_label_that_is_nowhere_stays_so_when_it_is_turned() -> None:
    maps = np.full((2, 9, 20, 20), NO_SURFACE, np.int16)
    maps[1] *= -1
    draw = SampleDraw(angles=(0.2, 0.1, 0.3), scale=1.1)
    placed = place_maps(maps, draw, (5, 12, 12), linear=(True, True))
    inside = placed != OUTSIDE_IMAGE
    assert inside.mean() > 0.9
    assert np.unique(placed[0][inside[0]]).tolist() == [NO_SURFACE]
    assert np.unique(placed[1][inside[1]]).tolist() == [-NO_SURFACE]


def test_workers_devices_and_memory_give_the_same_maps(tmp_path: Path) -> None:
    configuration, maps = make(tmp_path, (8, 10, 12), TURNED)
    files, memory = (CaseFolder(tmp_path, IDS, None, maps) for _ in range(2))
    assert memory.hold_in_memory(10**9)
    assert isinstance(memory[0].maps, np.ndarray)
    for step in range(4):
        done, loaded, held = (
            BatchSource(configuration, cases, seed=4, augment=True, finish=finish)[step]
            for cases, finish in ((files, True), (files, False), (memory, True))
        )
        assert isinstance(done, Batch)
        assert isinstance(loaded, LoadedBatch)
        assert isinstance(held, Batch)
        assert done.maps is not None
        assert loaded.maps is not None
        assert held.maps is not None
        assert torch.equal(done.maps, loaded.maps)
        assert torch.equal(done.maps, held.maps)


def test_validation_has_maps_too(tmp_path: Path) -> None:
    configuration, maps = make(tmp_path, (8, 10, 12), TURNED)
    (batch,) = validation_batches(
        configuration, tmp_path, IDS, steps=1, seed=0, workers=0, device=CPU, maps=maps
    )
    assert torch.equal(part(batch, "components").amax(dim=1) > 0, batch.label > 0)


def test_what_only_cpus_augment_with_is_not_imported_where_there_is_nothing_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that applies the draws itself needs none of the packages behind these modules."""
    make_folder(tmp_path, cases=3, shape=(12, 20, 24))
    for name in ("cpu", "previous"):
        monkeypatch.setitem(sys.modules, f"selfseg.augmentation.{name}", None)
    configuration = make_configuration((8, 10, 12), augmentation=TURNED)
    source = BatchSource(
        configuration, CaseFolder(tmp_path, IDS), seed=1, augment=True, finish=False
    )
    assert isinstance(source[0], LoadedBatch)
    source.finish = True  # on a CPU
    with pytest.raises(ImportError):
        source[0]


def test_maps_are_made_once(tmp_path: Path) -> None:
    _, folder = make(tmp_path, (8, 10, 12), MIRRORED)
    again = {"maps": MAPS, "targets": plain(2), "patch": (8, 10, 12), "workers": 1}
    assert prepare_maps(IDS, tmp_path, folder, flat=False, **again) == 0  # type: ignore[arg-type]
    assert prepare_maps(IDS, tmp_path, folder, flat=True, **again) == 3  # type: ignore[arg-type]


def test_training_goes_on_bit_equal_with_terms_that_follow_a_schedule(tmp_path: Path) -> None:
    loss = Loss(
        terms=(DiceTerm(), SegmentTerm(start=0.25, ramp=0.5), BoundaryTerm(start=0.5, weight=0.1))
    )
    job = make_job(tmp_path)
    configuration = job.configuration.model_copy(update={"loss": loss})
    ids = (*job.train_cases, *job.validation_cases)
    maps = tmp_path / "maps"
    prepare_maps(
        ids, job.data, maps, maps=needed_maps(loss), targets=job.plan.targets, flat=False,
        patch=configuration.patch, workers=1,
    )  # fmt: skip
    job = replace(job, configuration=configuration, loss_maps=maps)
    train(job)
    train(replace(job, output=replace(job.output, path=tmp_path / "other")))
    first, second = (
        folder / "weights.safetensors" for folder in (job.output.path, tmp_path / "other")
    )
    assert first.read_bytes() == second.read_bytes()
