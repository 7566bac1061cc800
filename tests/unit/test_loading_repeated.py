"""Batches for a device, tried on the CPU: validation holds its own; what counts as waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from otherdevice import Other, pretend_device
from trainingdata import make_configuration, make_folder

from selfseg.loading import batches, on_device
from selfseg.loading.batches import Batch, ValidationBatches, training_batches, validation_batches
from selfseg.loading.items import LoadedBatch, Made
from selfseg.loading.patches import CaseFolder
from selfseg.loading.source import BatchSource

CPU = torch.device("cpu")
PATCH = (12, 16, 14)
ITEM_BYTES = 3 * 2 * 12 * 16 * 14 * 4 + 3 * 12 * 16 * 14 * 2  # two channels, and the label


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Other:
    return pretend_device(monkeypatch)


def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the steps whose batches are loaded from files."""
    steps: list[int] = []
    usual = BatchSource._make

    def noted(self: BatchSource, step: int) -> Made:
        steps.append(step)
        return usual(self, step)

    monkeypatch.setattr(BatchSource, "_make", noted)
    return steps


def make(folder: Path, device: object) -> ValidationBatches:
    ids = make_folder(folder, channels=2)
    return validation_batches(
        make_configuration(PATCH, channels=2, batch=3),
        folder,
        ids,
        steps=5,
        seed=1,
        workers=0,
        device=device,  # type: ignore[arg-type]
    )


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(("fitting", "again"), [(5.0, []), (2.5, [2, 3, 4]), (0.5, [*range(5)])])
def test_batches_for_a_device_are_loaded_once_if_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Other, fitting: float, again: list[int]
) -> None:
    room_gib = fitting * ITEM_BYTES / batches.HELD_SHARE / 2**30
    monkeypatch.setattr(batches, "free_memory_gib", lambda: 1.0001 * room_gib)
    expected = list(make(tmp_path, CPU))
    found, steps = make(tmp_path, device), loaded(monkeypatch)
    assert len(found) == 5
    assert equal(list(found), expected)
    assert steps == [*range(5)]
    for _ in range(2):
        steps.clear()
        assert equal(list(found), expected)
        assert steps == again


def test_a_pass_that_ends_early_leaves_the_batches_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Other
) -> None:
    monkeypatch.setattr(batches, "free_memory_gib", lambda: 1.0)
    expected, found = list(make(tmp_path, CPU)), make(tmp_path, device)
    for _, batch in zip(range(2), found, strict=False):
        assert batch.image.shape == (3, 2, *PATCH)
    assert equal(list(found), expected)


def test_nothing_is_held_for_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, steps = make(tmp_path, CPU), loaded(monkeypatch)
    assert equal(list(found), list(found))
    assert steps == [*range(5), *range(5)]


def test_augmenting_on_a_device_is_no_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Other
) -> None:
    usual = on_device._prepare

    def slow(*arguments: object) -> Batch:
        time.sleep(0.05)
        return usual(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(on_device, "_prepare", slow)
    cases = CaseFolder(tmp_path, make_folder(tmp_path, channels=2))
    configuration = make_configuration(PATCH, channels=2, batch=3)
    source = BatchSource(configuration, cases, seed=1, augment=True, finish=False)
    items = [item for item in map(source._make, range(4)) if isinstance(item, LoadedBatch)]
    stream = batches.Batches(iter(items), source, device)  # type: ignore[arg-type]
    assert len(list(stream)) == 4
    assert stream.waited_s < 0.1  # half of what preparing takes

    def arriving() -> Iterator[LoadedBatch]:
        for item in items:
            time.sleep(0.05)
            yield item

    stream = batches.Batches(arriving(), source, device)  # type: ignore[arg-type]
    assert len(list(stream)) == 4
    assert stream.waited_s >= 0.15  # for all but the first one, for which workers start


def test_loading_on_a_cpu_is_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = BatchSource._make

    def slow(self: BatchSource, step: int) -> Made:
        time.sleep(0.05)
        return usual(self, step)

    monkeypatch.setattr(BatchSource, "_make", slow)
    stream = training_batches(
        make_configuration(PATCH, channels=2, batch=3),
        tmp_path,
        make_folder(tmp_path, channels=2),
        steps=range(3),
        seed=1,
        workers=0,
        device=CPU,
    )
    assert next(stream).image.shape[0] == 3
    assert stream.waited_s == 0.0
    assert next(stream).image.shape[0] == 3
    assert stream.waited_s >= 0.05
