"""The pass over a dataset: facts of known phantoms, all complaints at once, what is not redone."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from PIL import Image
from realdata import data_root

from selfseg.errors import DatasetError
from selfseg.execution import processes
from selfseg.fingerprinting import extract
from selfseg.fingerprinting.extract import inspect
from selfseg.io.companions import digest_image
from selfseg.io.formats import read_dataset
from selfseg.io.images import read_image, read_label_map
from selfseg.phantoms import make_phantom, write_dataset
from selfseg.records.dataset import Case, Dataset
from selfseg.records.fingerprint import Fingerprint

SHAPE, SPACING, SEED = (8, 24, 20), (4.0, 1.5, 2.0), 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(
        tmp_path / "data",
        name="phantoms",
        train=4,
        test=0,
        seed=SEED,
        shape=SHAPE,
        spacing_mm=SPACING,
    )
    return tmp_path / "data"


def image_path(root: Path, case: int) -> Path:
    return root / "imagesTr" / f"case_{case:03d}_0000.nii.gz"


def label_path(root: Path, case: int) -> Path:
    return root / "labelsTr" / f"case_{case:03d}.nii.gz"


def change(path: Path, edit: Callable[[np.ndarray], None]) -> None:
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    edit(voxels)
    changed = sitk.GetImageFromArray(voxels)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))


def describe(root: Path, **changes: object) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def empty(voxels: np.ndarray) -> None:
    voxels[:] = 0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cases that are read and measured, in this process."""
    ids: list[str] = []
    original = extract.measure_case

    def counted(case_id: str, *args: object) -> object:
        ids.append(case_id)
        return original(case_id, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(extract, "measure_case", counted)
    return ids


def look(
    root: Path, known: tuple[Dataset, Fingerprint] | None = None
) -> tuple[Dataset, Fingerprint]:
    return inspect(read_dataset(root), workers=1, known=known)


def test_facts_of_phantoms(root: Path) -> None:
    def shift(voxels: np.ndarray) -> None:
        voxels += 0.5
        voxels[:2] = voxels[:, :3] = 0

    change(image_path(root, 1), shift)
    dataset, fingerprint = look(root)
    assert [case.id for case in fingerprint.cases] == [f"case_{index:03d}" for index in range(4)]
    for index, facts in enumerate(fingerprint.cases):
        phantom = make_phantom(
            np.random.default_rng([SEED, index]), shape=SHAPE, spacing_mm=SPACING
        )
        image = phantom.image
        if index == 1:
            shift(image)
        assert (facts.shape, facts.spacing_mm, facts.is_2d) == (SHAPE, SPACING, False)
        assert facts.shape_after_crop == ((6, 21, 20) if index == 1 else SHAPE)
        assert facts.integer_intensities == (index != 1)
        assert facts.intensities[0].mean == pytest.approx(
            image[phantom.label > 0].mean(dtype=float), rel=1e-5
        )
        voxels = [label.voxels for label in facts.labels]
        assert voxels == [(phantom.label == value).sum() for value in (1, 2)]
    assert fingerprint.median_relative_size_after_crop == 1
    assert [label.name for label in fingerprint.labels] == ["organ", "lesion"]
    assert fingerprint.labels[0].share_of_cases == 1
    for case in dataset.cases:
        assert case.reference is not None
        for file in (*case.images, case.reference):
            assert file.digest == digest_image(root / file.path)


def test_result_does_not_depend_on_the_workers(root: Path) -> None:
    dataset = read_dataset(root)
    assert inspect(dataset, workers=2) == inspect(dataset, workers=1)


def test_a_new_case_is_the_only_one_that_is_read(root: Path, measured: list[str]) -> None:
    for path in (image_path(root, 3), label_path(root, 3)):
        path.rename(root / path.name)
    known = look(root)
    assert len(measured) == 3
    measured.clear()
    for path in (image_path(root, 3), label_path(root, 3)):
        (root / path.name).rename(path)
    result = look(root, known)
    assert measured == ["case_003"]
    assert result == look(root)


def test_changed_voxels_beside_an_unchanged_header_are_noticed(
    root: Path, measured: list[str]
) -> None:
    for path in (*root.glob("imagesTr/*"), *root.glob("labelsTr/*")):
        apart = path.with_name(path.name.replace(".nii.gz", ".mhd"))
        sitk.WriteImage(sitk.ReadImage(str(path)), str(apart))
        path.unlink()
    describe(root, file_ending=".mhd")
    known = look(root)
    measured.clear()
    assert look(root, known) == known
    voxels = image_path(root, 1).with_name("case_001_0000.raw")
    voxels.write_bytes(bytes(8) + voxels.read_bytes()[8:])
    again, _ = look(root, known)
    assert measured == ["case_001"]
    digests = [[case.images[0].digest for case in found.cases] for found in (known[0], again)]
    assert [a == b for a, b in zip(*digests, strict=True)] == [True, False, True, True]


def test_what_is_unchanged_is_not_read(
    root: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = look(root)
    measured.clear()
    with monkeypatch.context() as context:
        context.setattr(extract, "digest_image", lambda path: pytest.fail(f"read {path}"))
        assert look(root, known) == known
    os.utime(image_path(root, 0), ns=(1, 1))  # copied: another time, the same content
    again, facts = look(root, known)
    assert facts == known[1]
    assert again.cases[0].images[0].modified_ns == 1
    describe(root, labels={"background": 0, "liver": 1, "tumor": 2})
    renamed = look(root, known)[1]
    assert [label.name for label in renamed.labels] == ["liver", "tumor"]
    assert measured == []


def test_facts_measured_otherwise_are_measured_again(
    root: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(extract, "MEASURE_VERSION", extract.MEASURE_VERSION - 1)
        dataset, former = look(root)
    bare = former.model_dump(exclude={"labels": {"__all__": {"shape"}}}, exclude_defaults=True)
    for case in bare["cases"]:
        for label in case["labels"]:
            label.pop("shape", None)
    measured.clear()
    fingerprint = look(root, (dataset, Fingerprint.model_validate(bare)))[1]
    assert len(measured) == 4
    assert all(label.shape is not None for label in fingerprint.labels)
    for facts in fingerprint.cases:
        for label in facts.labels:
            assert label.shape is not None
            assert label.components == label.shape.components
            assert label.shape.contrast[0] is not None


def test_what_has_changed_is_measured_again(root: Path, measured: list[str]) -> None:
    known = look(root)
    measured.clear()

    def invert(voxels: np.ndarray) -> None:
        voxels[:] = np.where(voxels > 0, 3 - voxels.astype(int), 0)

    change(label_path(root, 2), invert)
    fingerprint = look(root, known)[1]
    assert measured == ["case_002"]
    old, new = known[1].cases[2].labels, fingerprint.cases[2].labels
    assert (new[0].voxels, new[1].voxels) == (old[1].voxels, old[0].voxels)
    measured.clear()
    describe(root, labels={"background": 0, "organ": 1, "lesion": 2, "third": 3})
    assert look(root, known)[1].labels[2].share_of_cases == 0
    assert len(measured) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_all_complaints_come_at_once(root: Path, workers: int) -> None:
    def spoil(voxels: np.ndarray) -> None:
        voxels[0, 0, :3] = np.nan

    def undeclared(voxels: np.ndarray) -> None:
        voxels[0, 0, 0] = 9

    change(image_path(root, 0), spoil)
    change(label_path(root, 0), undeclared)
    content = image_path(root, 1).read_bytes()
    image_path(root, 1).write_bytes(content[: len(content) // 2])
    dataset = read_dataset(root)
    label_path(root, 2).unlink()
    with pytest.raises(DatasetError) as caught:
        inspect(dataset, workers=workers)
    nan, value, truncated, missing = caught.value.complaints
    assert "case_000_0000.nii.gz: 3 of" in nan
    assert "case_000.nii.gz: label values not declared in dataset.json: 9" in value
    assert "case_001_0000.nii.gz" in truncated
    assert "case_002.nii.gz" in missing
    assert all("; " in line and "\n" not in line for line in (nan, value, truncated))
    assert "4 complaints about 4 cases" in caught.value.message
    assert caught.value.remedy


def test_copies_are_a_complaint(root: Path) -> None:
    shutil.copy(image_path(root, 1), image_path(root, 3))
    with pytest.raises(DatasetError, match="cases case_001, case_003: identical images"):
        look(root)


def test_healthy_cases_are_used_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(label_path(root, 1), empty)
    change(label_path(root, 3), empty)
    with caplog.at_level(logging.WARNING):
        known = look(root)
    (warning,) = caplog.messages
    assert warning == "2 of 4 cases without foreground: case_001, case_003"
    assert [case.intensities[0].count > 0 for case in known[1].cases] == [True, False, True, False]
    assert known[1].labels[0].share_of_cases == 0.5
    caplog.clear()
    assert look(root, known) == known
    assert len(caplog.messages) == 1


def test_no_foreground_at_all_is_a_complaint(root: Path) -> None:
    for case in range(4):
        change(label_path(root, case), empty)
    with pytest.raises(DatasetError) as caught:
        look(root)
    (line,) = caught.value.complaints
    assert line.startswith("no foreground in any case; ")


def test_color_pictures(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(1, 256, (2, 12, 10, 3)).astype(np.uint8)
    label = np.zeros((12, 10), np.uint8)
    label[2:6, 3:8] = 255
    for case, image in enumerate(images):
        for folder, name, array in (("images", "_0000", image), ("labels", "", label)):
            path = tmp_path / f"{folder}Tr" / f"p{case}{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(path)
    channels = {"0": "R", "1": "G", "2": "B"}
    described = {"channel_names": channels, "labels": {"background": 0, "vessel": 255}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    fingerprint = look(tmp_path)[1]
    facts = fingerprint.cases[1]
    assert (facts.shape, facts.is_2d, facts.integer_intensities) == ((1, 12, 10), True, True)
    assert (facts.labels[0].voxels, facts.labels[0].extent_mm) == (20, (1.0, 4.0, 5.0))
    means = [channel.mean for channel in facts.intensities]
    np.testing.assert_allclose(means, images[1][label > 0].mean(axis=0), rtol=1e-6)
    assert len(fingerprint.intensities) == 3


def test_workers_get_only_what_is_new(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = look(root)
    given: list[str] = []
    original = processes.map_parallel

    def noted(work: partial[object], cases: list[Case], **options: object) -> list[object]:
        given.extend(case.id for case in cases)
        assert len(ForkingPickler.dumps(work)) < 2_000  # travels with every case
        return original(work, cases, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(extract, "map_parallel", noted)
    os.utime(label_path(root, 1), ns=(1, 1))
    assert inspect(read_dataset(root), workers=4, known=known)[1] == known[1]
    assert given == ["case_001"]


def test_a_digest_that_came_with_the_description_is_not_believed(root: Path) -> None:
    dataset = look(root)[0]
    change(image_path(root, 0), lambda voxels: voxels.fill(7))
    again = inspect(dataset, workers=1)[0]
    assert again.cases[0].images[0].digest == digest_image(image_path(root, 0))


def test_a_case_without_reference_is_a_complaint(root: Path) -> None:
    dataset = read_dataset(root)
    first, *others = dataset.cases
    alone = first.model_copy(update={"reference": None})
    with pytest.raises(DatasetError, match="case_000: no reference; "):
        inspect(dataset.model_copy(update={"cases": (alone, *others)}), workers=1)


@pytest.mark.data
def test_real_cases_pool_as_an_equal_draw_from_each() -> None:
    root = data_root("sarcoma")
    dataset, fingerprint = inspect(read_dataset(root), workers=2)
    rng = np.random.default_rng(0)
    drawn: list[np.ndarray] = []
    for case in dataset.cases:
        assert case.reference is not None
        image = read_image([root / file.path for file in case.images]).array
        foreground = read_label_map(root / case.reference.path).array[0] > 0
        drawn.append(rng.choice(image[:, foreground], 20_000, axis=1))
    assert len(fingerprint.cases) == len(drawn) > 10
    for facts, values in zip(fingerprint.intensities, np.concatenate(drawn, axis=1), strict=True):
        spread = values.std(dtype=float)
        assert facts.mean == pytest.approx(values.mean(dtype=float), abs=0.01 * spread)
        assert facts.std == pytest.approx(spread, rel=0.02)
        for percent, found in (
            (0.5, facts.percentile_00_5),
            (50, facts.median),
            (99.5, facts.percentile_99_5),
        ):
            low, high = np.percentile(values, [max(percent - 0.3, 0), min(percent + 0.3, 100)])
            assert low - 0.01 * spread <= found <= high + 0.01 * spread


def test_what_is_not_annotated_is_not_measured(root: Path) -> None:
    _, whole = inspect(read_dataset(root), workers=1)
    values = {label.value for label in read_dataset(root).labels}
    ignore = max(values) + 5
    content = json.loads((root / "dataset.json").read_text())
    describe(root, labels=content["labels"] | {"ignore": ignore})
    for case in range(4):

        def hide(voxels: np.ndarray) -> None:
            voxels[: SHAPE[0] // 2] = ignore

        change(label_path(root, case), hide)
        change(image_path(root, case), partial(spoil, rows=SHAPE[0] // 2))
    dataset, partly = inspect(read_dataset(root), workers=1)
    assert dataset.ignore == ignore
    for facts in partly.cases:
        assert facts.annotated_share == 0.5
        values_seen = read_label_map(label_path(root, int(facts.id[-3:]))).array[0]
        counts = [int((values_seen == label.value).sum()) for label in dataset.labels]
        assert [label.voxels for label in facts.labels] == counts
        assert facts.intensities[0].count == sum(counts)
    assert partly.intensities[0].maximum < 30_000  # the spoiled half was left out
    assert all(facts.annotated_share == 1 for facts in whole.cases)
    assert {facts.digest for facts in whole.cases}.isdisjoint(f.digest for f in partly.cases)


def test_the_annotated_share_is_that_of_the_crop(root: Path) -> None:
    content = json.loads((root / "dataset.json").read_text())
    describe(root, labels=content["labels"] | {"ignore": 99})

    def black(voxels: np.ndarray) -> None:
        voxels[: SHAPE[0] // 2] = 0

    def not_annotated(voxels: np.ndarray) -> None:
        voxels[: SHAPE[0] // 2] = 99

    change(image_path(root, 0), black)
    change(label_path(root, 0), not_annotated)
    _, measured = inspect(read_dataset(root), workers=1)
    facts = measured.cases[0]
    assert facts.shape_after_crop[0] == SHAPE[0] - SHAPE[0] // 2
    assert facts.annotated_share == 1


def spoil(voxels: np.ndarray, *, rows: int) -> None:
    voxels[:rows] = 30_000
