"""Preprocessing of a dataset: the files, what is skipped, what is made again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from selfseg.errors import ImageError
from selfseg.fingerprinting.extract import inspect
from selfseg.io.formats import read_dataset
from selfseg.io.images import Image, label_indices, read_image, read_label_map
from selfseg.io.store import open_array, save_array
from selfseg.phantoms import write_dataset
from selfseg.preprocessing import dataset as module
from selfseg.preprocessing.case import CroppedCase, crop_case, prepare_case
from selfseg.preprocessing.dataset import Arrays, CaseFiles, preprocess
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Label
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Preprocessing, ZScore

PATCH = (8, 16, 16)
OPTIONS = Preprocessing(axes=(0, 1, 2), spacing_mm=(3.0, 1.5, 2.0), normalization=(ZScore(),))
OTHER = OPTIONS.model_copy(update={"spacing_mm": (4.0, 2.0, 2.0)})
CASES = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_dataset(tmp_path / "data", name="d", train=CASES, test=0, seed=1, shape=(8, 24, 20))
    return inspect(read_dataset(tmp_path / "data"), workers=1)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "arrays"


def make(dataset: Dataset, folder: Path, options: Preprocessing = OPTIONS, workers: int = 1) -> int:
    return preprocess(dataset, [Arrays(folder, options, PATCH)], workers=workers)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_files_hold_the_prepared_cases(dataset: Dataset, folder: Path) -> None:
    assert make(dataset, folder) == CASES
    for case in dataset.cases:
        root = Path(dataset.root)
        assert case.reference is not None
        values = read_label_map(root / case.reference.path).array[0]
        expected = prepare_case(
            case.id,
            read_image([root / case.images[0].path]),
            label_indices(values, dataset.labels),
            OPTIONS,
            targets=dataset.targets,
        )
        files = CaseFiles(folder, case.id)
        image, label = open_array(files.image), open_array(files.label)
        assert image.dtype == np.float32
        assert label.dtype == np.int16
        np.testing.assert_array_equal(image[:], expected.image)
        np.testing.assert_array_equal(label[:], expected.label)
        rows = np.load(files.locations, allow_pickle=False)
        assert rows.dtype == np.int32
        np.testing.assert_array_equal(rows, np.concatenate(expected.locations))
        record = serial.load(PreprocessedCase, files.record)
        assert record == expected.record.model_copy(update={"source": record.source})
        assert sum(record.num_locations) == len(rows) > 0
    assert len(list(folder.iterdir())) == 4 * CASES, "no temporary file is left"


def test_parallel_equals_serial(dataset: Dataset, tmp_path: Path) -> None:
    assert make(dataset, tmp_path / "one", workers=1) == CASES
    assert make(dataset, tmp_path / "two", workers=2) == CASES
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_several_arrays_are_those_of_each_alone_and_read_a_case_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = OPTIONS.model_copy(update={"axes": (2, 0, 1)})
    every = {"fine": OPTIONS, "coarse": OTHER, "turned": turned}
    for name, options in every.items():
        make(dataset, tmp_path / name, options)
    read: list[str] = []

    def counted(paths: list[Path]) -> Image:
        read.append(paths[0].name)
        return read_image(paths)

    monkeypatch.setattr(module, "read_image", counted)
    folder = tmp_path / "together"
    wanted = [Arrays(folder / name, options, PATCH) for name, options in every.items()]
    assert preprocess(dataset, wanted[:2], workers=1) == CASES
    assert preprocess(dataset, wanted, workers=1) == CASES, "the third is missing"
    assert len(read) == 2 * CASES
    assert preprocess(dataset, wanted, workers=1) == 0
    for name in every:
        assert content(folder / name) == content(tmp_path / name)


def test_arrays_that_two_patches_share_are_made_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [Arrays(tmp_path / "a", OPTIONS, patch) for patch in (PATCH, (4, 8, 8))]
    written: list[Path] = []

    def counted(array: np.ndarray, path: Path, *, patch: tuple[int, ...]) -> None:
        assert patch == PATCH
        written.append(path)
        save_array(array, path, patch=patch)

    monkeypatch.setattr(module, "save_array", counted)
    assert preprocess(dataset, arrays, workers=1) == CASES  # a lock taken twice would never open
    assert len(written) == len(set(written)) == 2 * CASES  # image and label


def test_one_crop_of_a_case_is_in_memory_at_a_time(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each order of axes, however the arrays are listed."""
    turned = OPTIONS.model_copy(update={"axes": (2, 0, 1)})
    made: list[weakref.ref[CroppedCase]] = []

    def watched(*arguments: Any) -> CroppedCase:
        assert all(former() is None for former in made)
        cropped = crop_case(*arguments)
        made.append(weakref.ref(cropped))
        return cropped

    monkeypatch.setattr(module, "crop_case", watched)
    every = (("fine", OPTIONS), ("turned", turned), ("coarse", OTHER))
    arrays = [Arrays(tmp_path / name, options, PATCH) for name, options in every]
    assert preprocess(dataset, arrays, workers=1) == CASES
    assert len(made) == 2 * CASES


def test_what_is_up_to_date_is_skipped(dataset: Dataset, folder: Path) -> None:
    make(dataset, folder)
    before = times(folder)
    assert make(dataset, folder) == 0
    renamed = tuple(Label(name=label.name.upper(), value=label.value) for label in dataset.labels)
    assert make(dataset.model_copy(update={"labels": renamed}), folder) == 0
    assert times(folder) == before


def test_changed_options_and_labels_make_all_again(dataset: Dataset, folder: Path) -> None:
    make(dataset, folder)
    assert make(dataset, folder, OTHER) == CASES
    assert make(dataset, folder, OTHER) == 0
    more = (*dataset.labels, Label(name="third", value=3))
    assert make(dataset.model_copy(update={"labels": more}), folder, OTHER) == CASES
    assert serial.load(PreprocessedCase, folder / "case_000.json").num_locations[2] == 0


@pytest.mark.parametrize("which", ["images", "reference"])
def test_a_changed_file_makes_its_case_again(dataset: Dataset, folder: Path, which: str) -> None:
    make(dataset, folder)
    before = times(folder)
    first, *others = dataset.cases
    assert first.reference is not None
    file = first.images[0] if which == "images" else first.reference
    other = file.model_copy(update={"digest": "new"})
    first = first.model_copy(update={which: (other,) if which == "images" else other})
    assert make(dataset.model_copy(update={"cases": (first, *others)}), folder) == 1
    after = times(folder)
    assert {name for name in after if after[name] != before[name]} == {
        path.name for path in folder.glob("case_000*")
    }


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("case_001.json", remove),
        ("case_001.json", cut),
        ("case_001.b2nd", remove),
        ("case_001_label.b2nd", remove),
        ("case_001_locations.npy", remove),
    ],
)
def test_an_incomplete_case_is_made_again(
    dataset: Dataset, folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    make(dataset, folder)
    whole = content(folder)
    damage(folder / name)
    assert make(dataset, folder) == 1
    assert content(folder) == whole


@pytest.mark.parametrize("stop_at", ["image", "label", "locations", "record"])
def test_a_run_that_was_stopped_half_way_goes_on(
    dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """Arrays of other options lie there: none may pass for one of the new ones, or the reverse."""
    make(dataset, folder, OTHER)
    old = content(folder)
    target = getattr(CaseFiles(folder, "case_001"), stop_at)

    def stopping(original: Callable[..., None]) -> Callable[..., None]:
        def save(value: object, path: Path, **options: object) -> None:
            if path == target:
                raise KeyboardInterrupt
            original(value, path, **options)

        return save

    def stop_locations(stream: IO[bytes], rows: np.ndarray, *, allow_pickle: bool) -> None:
        if target.name in stream.name:
            raise KeyboardInterrupt
        save_rows(stream, rows, allow_pickle=allow_pickle)

    save_rows = np.save
    with monkeypatch.context() as context:
        context.setattr(module, "save_array", stopping(save_array))
        context.setattr(serial, "save", stopping(serial.save))
        context.setattr(np, "save", stop_locations)
        with pytest.raises(KeyboardInterrupt):
            make(dataset, folder)
    assert not (folder / "case_001.json").exists()
    assert make(dataset, folder, OTHER) == 2, "case_000 is of the new options, case_001 of none"
    assert {name: old[name] for name in old} == {n: content(folder)[n] for n in old}
    assert make(dataset, folder) == CASES
    assert make(dataset, folder) == 0


def test_images_to_predict_have_no_label(dataset: Dataset, folder: Path) -> None:
    cases = tuple(case.model_copy(update={"reference": None}) for case in dataset.cases[:1])
    only = dataset.model_copy(update={"cases": cases})
    assert make(only, folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["case_000.b2nd", "case_000.json"]
    assert make(only, folder) == 0
    assert make(dataset, folder) == CASES, "with a reference it is another case"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_vanished_is_named(dataset: Dataset, folder: Path, workers: int) -> None:
    (Path(dataset.root) / dataset.cases[1].images[0].path).unlink()
    with pytest.raises(ImageError, match=r"case_001_0000\.nii\.gz") as caught:
        make(dataset, folder, workers=workers)
    assert caught.value.remedy
    assert not (folder / "case_001.json").exists()
