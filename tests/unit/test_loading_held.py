"""Cases that stay on a device: cut there as from files, if they fit, and never changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from otherdevice import pretend_device
from trainingdata import make_configuration, make_folder

from selfseg.augmentation.draw import SampleDraw
from selfseg.loading import held
from selfseg.loading.batches import training_batches
from selfseg.loading.held import HeldCases, hold_on_device
from selfseg.loading.items import Batch, Made, Place, PlacedBatch
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.source import BatchSource
from selfseg.records.network import ContextUNet
from selfseg.records.plan import Configuration

CPU = torch.device("cpu")
SHAPE = (9, 12, 10)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> CaseFolder:
    folder = tmp_path_factory.mktemp("preprocessed")
    return CaseFolder(folder, make_folder(folder, cases=3, channels=2, shape=SHAPE))


def whole(cases: CaseFolder) -> HeldCases:
    stored = [cases.whole(case) for case in cases.ids]
    images = tuple(torch.from_numpy(case.image[:]) for case in stored)
    return HeldCases(images, tuple(torch.from_numpy(case.label[:]) for case in stored))


@settings(max_examples=150, deadline=None)
@given(
    case=st.integers(0, 2),
    corner=st.tuples(*[st.integers(-14, 14)] * 3),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
)
def test_boxes_are_those_from_files(
    cases: CaseFolder, case: int, corner: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """Also where they reach beyond the image, or do not touch it."""
    batch = PlacedBatch((Place(case, corner, shape),), (SampleDraw(),), context=0, flat=False)
    found = whole(cases).load(batch)
    image, label = cases.cut(case, corner, shape)
    np.testing.assert_array_equal(found.images[0].numpy(), image)
    np.testing.assert_array_equal(found.labels[0].numpy(), label)


@settings(max_examples=80, deadline=None)
@given(low=st.integers(0, 8), more=st.integers(0, 5), context=st.integers(1, 3))
def test_context_slices_are_those_from_files(
    cases: CaseFolder, low: int, more: int, context: int
) -> None:
    """Beyond the image they repeat its last slice."""
    corner, shape = (low, -2, 3), (min(1 + more, SHAPE[0] - low), 6, 6)
    batch = PlacedBatch((Place(1, corner, shape),), (SampleDraw(),), context, flat=False)
    found = whole(cases).load(batch)
    image, label = cases.cut(1, corner, shape, context=context)
    np.testing.assert_array_equal(found.images[0].numpy(), image)
    np.testing.assert_array_equal(found.labels[0].numpy(), label)


def configurations() -> list[Configuration]:
    slabs = make_configuration((5, 8, 8), channels=2)
    network = ContextUNet(
        slices=5, features=(2, 3), strides=((1, 1, 1), (1, 2, 2)), blocks_encoder=(1, 1),
        blocks_decoder=(1,), supervised=1,
    )  # fmt: skip
    return [
        make_configuration((6, 8, 8), channels=2),
        make_configuration((8, 8), channels=2),
        slabs.model_copy(update={"network": network}),
    ]


def batches(cases: CaseFolder, configuration: Configuration, device: object) -> list[Batch]:
    stream = training_batches(
        configuration,
        cases.folder,
        cases.ids,
        steps=range(6),
        seed=4,
        workers=0,
        device=device,  # type: ignore[arg-type]
    )
    return list(stream)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[type[Made]]:
    """Note what the source makes."""
    kinds: list[type[Made]] = []
    usual = BatchSource._make

    def make(self: BatchSource, step: int) -> Made:
        made = usual(self, step)
        kinds.append(type(made))
        return made

    monkeypatch.setattr(BatchSource, "_make", make)
    return kinds


@pytest.mark.parametrize("configuration", configurations(), ids=["3d", "2d", "2.5d"])
def test_batches_are_the_same_whether_cases_stay_on_the_device_or_not(
    cases: CaseFolder, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = noted(monkeypatch)
    needed = cases.bytes_in_memory() / held.FREE_SHARE
    cut_there = batches(cases, configuration, pretend_device(monkeypatch, needed))
    assert set(kinds) == {PlacedBatch}
    kinds.clear()
    loaded = batches(cases, configuration, pretend_device(monkeypatch, needed - 8))
    assert PlacedBatch not in kinds
    for a, b in zip(cut_there, loaded, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
    again = batches(cases, configuration, pretend_device(monkeypatch, needed))
    assert all(torch.equal(a.image, b.image) for a, b in zip(again, loaded, strict=True))


def test_what_stays_is_left_as_it_is(cases: CaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[HeldCases] = []

    def hold(cases: CaseFolder, *_: object) -> HeldCases | None:
        kept.append(whole(cases))
        return kept[-1]

    monkeypatch.setattr("selfseg.loading.batches.hold_on_device", hold)
    batches(cases, configurations()[0], pretend_device(monkeypatch))
    before, after = whole(cases), kept[0]
    pairs = zip((*before.images, *before.labels), (*after.images, *after.labels), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_cpu_holds_nothing_and_neither_do_cascades(
    cases: CaseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = pretend_device(monkeypatch, 1e12)
    assert hold_on_device(cases, CPU) is None
    assert hold_on_device(cases, device) is not None  # type: ignore[arg-type]
    stage = PreviousStage(cases.folder, labels=1)
    second = CaseFolder(cases.folder, cases.ids, stage)
    assert hold_on_device(second, device) is None  # type: ignore[arg-type]
    with_maps = CaseFolder(cases.folder, cases.ids, maps=cases.folder)
    assert hold_on_device(with_maps, device) is None  # type: ignore[arg-type]


def test_memory_that_runs_out_meanwhile_is_no_error(
    cases: CaseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = pretend_device(monkeypatch, 1e12)

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(held, "to_device", full)
    assert hold_on_device(cases, device) is None  # type: ignore[arg-type]
    assert len(batches(cases, configurations()[0], device)) == 6
