from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import watched_draws
from trainingdata import make_configuration, make_folder, write_case

from selfseg.augmentation.draw import SampleDraw
from selfseg.errors import DatasetError
from selfseg.loading.batches import (
    Batch,
    training_batches,
    validation_batches,
)
from selfseg.loading.items import LoadedBatch
from selfseg.loading.patches import CaseFolder
from selfseg.loading.source import BatchSource, masked_channels
from selfseg.records.augmentation import Augmentation
from selfseg.records.network import ContextUNet
from selfseg.records.plan import Configuration

CPU = torch.device("cpu")
PLAIN = Augmentation(
    rotation_p=0, scaling_p=0, noise_p=0, blur_p=0, brightness_p=0, contrast_p=0,
    low_resolution_p=0, gamma_inverted_p=0, gamma_p=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preprocessed")
    make_folder(path, cases=3, channels=2)
    return path


IDS = ("case_0", "case_1", "case_2")


def batches(
    folder: Path, patch: tuple[int, ...], steps: range, *, workers: int = 0, seed: int = 1
) -> Iterator[Batch]:
    configuration = make_configuration(patch, channels=2, batch=3)
    return training_batches(
        configuration, folder, IDS, steps=steps, seed=seed, workers=workers, device=CPU
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("patch", [(12, 16, 14), (20, 18)])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_depend_on_seed_and_step_only(
    folder: Path, patch: tuple[int, ...], workers: int
) -> None:
    reference = list(batches(folder, patch, range(6)))
    assert same(list(batches(folder, patch, range(6), workers=workers)), reference)
    resumed = list(batches(folder, patch, range(4, 6), workers=workers))
    assert same(resumed, reference[4:])
    assert not same(list(batches(folder, patch, range(6), seed=2)), reference)
    assert not same(reference[:1], reference[1:2])


@pytest.mark.parametrize("patch", [(12, 16, 14), (20, 18), (40, 40, 40)])
def test_shapes_types_and_values(folder: Path, patch: tuple[int, ...]) -> None:
    for batch in batches(folder, patch, range(4)):
        assert batch.image.shape == (3, 2, *patch)
        assert batch.label.shape == (3, *patch)
        assert batch.image.dtype == torch.float32
        assert batch.label.dtype == torch.int64
        assert bool(torch.isfinite(batch.image).all())
        assert set(batch.label.flatten().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("patch", [(12, 16, 14), (20, 18)])
def test_forced_samples_show_their_class(folder: Path, patch: tuple[int, ...]) -> None:
    configuration = make_configuration(patch, channels=2, batch=3, augmentation=PLAIN)
    stream = training_batches(
        configuration, folder, IDS, steps=range(60), seed=0, workers=0, device=CPU
    )
    seen = [set(batch.label[2].flatten().tolist()) - {0} for batch in stream]
    assert all(seen)
    assert set().union(*seen) == {1, 2}


@pytest.mark.parametrize(("batch", "own", "forced"), [(2, 1, 1), (3, 2, 1), (8, 4, 3)])
def test_a_part_of_a_batch_shows_foreground_as_often_as_the_whole(
    folder: Path, batch: int, own: int, forced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of two a part of one sample never did: rounded for itself its share was 0."""
    options = make_configuration((4, 4, 4), channels=2, batch=batch, augmentation=PLAIN)
    flags = watched_draws(monkeypatch)
    steps = 3 * batch

    def made(part: range | None) -> tuple[int, float]:
        """Return the forced samples, and the share of samples that show foreground."""
        flags.clear()
        stream = training_batches(
            options, folder, IDS, steps=range(steps), seed=0, workers=0, device=CPU, part=part
        )
        shown = [bool(label.any()) for item in stream for label in item.label]
        assert len(shown) == len(flags) == steps * (batch if part is None else len(part))
        assert all(shows for shows, flag in zip(shown, flags, strict=True) if flag)
        return sum(flags), sum(shown) / len(shown)

    assert made(None)[0] == steps * forced
    for part in (range(own), range(own, batch)):
        count, shown = made(part)
        assert count == steps * forced * len(part) // batch
        assert shown >= forced / batch


def test_parts_of_batches_depend_on_seed_and_step_only(folder: Path) -> None:
    def made(steps: range, workers: int = 0) -> list[Batch]:
        options = make_configuration((8, 8, 8), channels=2, batch=2)
        stream = training_batches(
            options, folder, IDS, steps=steps, seed=1, workers=workers, device=CPU, part=range(1)
        )
        return list(stream)

    reference = made(range(6))
    assert same(made(range(3, 6)), reference[3:])
    assert same(made(range(6), workers=2), reference)


def test_image_and_label_come_from_the_same_place(folder: Path) -> None:
    configuration = make_configuration((12, 16, 14), channels=2, batch=3, augmentation=PLAIN)
    for batch in training_batches(
        configuration, folder, IDS, steps=range(5), seed=0, workers=0, device=CPU
    ):
        assert torch.equal((batch.image[:, 0] // 10).long(), batch.label)


def test_without_transforms_only_the_patch_is_loaded(folder: Path) -> None:
    cases = CaseFolder(folder, IDS)
    spatial = Augmentation(rotation_p=0.5, scaling_p=0.0)
    configuration = make_configuration((12, 16, 14), channels=2, augmentation=spatial)
    source = BatchSource(configuration, cases, seed=0, augment=True, finish=False)
    sizes = set()
    for step in range(20):
        item = source[step]
        assert isinstance(item, LoadedBatch)
        for label, draw in zip(item.labels, item.draws, strict=True):
            assert draw.is_spatial == (tuple(label.shape) != (12, 16, 14))
            sizes.add(tuple(label.shape))
    assert len(sizes) > 5


def test_validation_is_plain_and_repeatable(folder: Path) -> None:
    configuration = make_configuration((12, 16, 14), channels=2)

    def make(workers: int) -> list[Batch]:
        return list(
            validation_batches(
                configuration, folder, IDS, steps=5, seed=1, workers=workers, device=CPU
            )
        )

    reference = make(0)
    assert same(make(1), reference)
    for batch in reference:
        assert torch.equal((batch.image[:, 0] // 10).long(), batch.label)
        assert bool((batch.label[1] > 0).any())


def test_masked_channels_follow_the_normalization(folder: Path) -> None:
    plain = make_configuration((8, 8, 8), channels=2)
    assert masked_channels(plain) == ()
    assert masked_channels(make_configuration((8, 8, 8), channels=2, inside_mask=True)) == (0, 1)


def test_a_users_error_keeps_type_and_remedy_across_processes(tmp_path: Path) -> None:
    ids = make_folder(tmp_path, channels=2)
    configuration = make_configuration((12, 16, 14), channels=2)
    stream = validation_batches(
        configuration, tmp_path, ids, steps=20, seed=0, workers=1, device=CPU
    )
    for case in ids:
        (tmp_path / f"{case}_locations.npy").write_bytes(b"no array")
    with pytest.raises(DatasetError, match="has no usable class locations") as caught:
        list(stream)
    assert "selfseg plan" in caught.value.remedy


def test_a_stream_can_be_left_early(folder: Path) -> None:
    stream = batches(folder, (12, 16, 14), range(1000), workers=1)
    assert len(list(itertools.islice(stream, 2))) == 2
    del stream


def test_torchs_global_stream_is_left_alone(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(batches(folder, (12, 16, 14), range(2), workers=1))
    list(batches(folder, (12, 16, 14), range(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_case_is_drawn_evenly(folder: Path) -> None:
    cases = CaseFolder(folder, IDS)
    configuration = make_configuration((4, 4, 4), channels=2, batch=4)
    source = BatchSource(configuration, cases, seed=0, augment=False, finish=False)
    chosen: list[int] = []
    original = cases.cut

    def spy(
        index: int, corner: tuple[int, ...], shape: tuple[int, ...], *, context: int
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen.append(index)
        return original(index, corner, shape, context=context)

    cases.cut = spy  # type: ignore[assignment, method-assign]
    for step in range(150):
        source[step]
    counts = np.bincount(chosen, minlength=3)
    assert counts.sum() == 600
    assert (np.abs(counts - 200) < 50).all()


def test_loaded_batch_leaves_a_worker_as_few_arrays() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4, 5), (6, 2, 2)]
    batch = LoadedBatch(
        [torch.from_numpy(rng.random((2, *shape), np.float32)) for shape in shapes],
        [torch.from_numpy(rng.integers(-1, 3, shape).astype(np.int16)) for shape in shapes],
        [SampleDraw(scale=1.5), SampleDraw()],
    )
    packed = batch.__getstate__()
    assert sum(isinstance(part, torch.Tensor) for part in packed["packed"]) == 2  # type: ignore[attr-defined]
    restored = copy.copy(batch)
    assert restored.draws == batch.draws
    for name in ("images", "labels"):
        for a, b in zip(getattr(batch, name), getattr(restored, name), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def slab_configuration(augmentation: Augmentation) -> Configuration:
    network = ContextUNet(
        slices=5, features=(2, 3), strides=((1, 1, 1), (1, 2, 2)), blocks_encoder=(1, 1),
        blocks_decoder=(1,), supervised=1,
    )  # fmt: skip
    made = make_configuration((5, 8, 8), batch=4, augmentation=augmentation)
    return made.model_copy(update={"network": network, "name": "2.5d"})


def test_slab_has_its_label_in_the_middle_and_repeats_the_end_slices(tmp_path: Path) -> None:
    """Image and label both tell the slice, so that every sample can be checked."""
    slices = np.arange(7)[:, None, None] + np.zeros((7, 8, 8))
    write_case(tmp_path, "case_0", slices[None], slices.astype(np.int16))
    plain = PLAIN.model_copy(update={"dummy_2d": True})
    steps = training_batches(
        slab_configuration(plain), tmp_path, ("case_0",), steps=range(40), seed=1, workers=0,
        device=CPU,
    )  # fmt: skip
    seen = set()
    for batch in steps:
        assert batch.image.shape == (4, 1, 5, 8, 8)
        assert batch.label.shape == (4, 1, 8, 8)
        for image, label in zip(batch.image, batch.label, strict=True):
            middle = int(label[0, 0, 0])
            expected = np.clip(np.arange(middle - 2, middle + 3), 0, 6)
            np.testing.assert_array_equal(image[0, :, 4, 4], expected)
            seen.add(middle)
    assert seen == set(range(7))


def test_augmented_slab_moves_all_slices_alike(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=1, shape=(6, 40, 40))
    options = PLAIN.model_copy(
        update={"dummy_2d": True, "rotation_p": 1.0, "rotation_degrees": 90.0, "scaling_p": 1.0}
    )
    right = []
    for batch in training_batches(
        slab_configuration(options), tmp_path, ("case_0",), steps=range(8), seed=1, workers=0,
        device=CPU,
    ):  # fmt: skip
        assert batch.image.shape == (4, 1, 5, 8, 8)
        middle, label = batch.image[:, 0, 2], batch.label[:, 0]
        right += (label[middle >= 20] == 2).tolist() + (label[middle < 1] == 0).tolist()
    assert len(right) > 100
    assert np.mean(right) > 0.97
