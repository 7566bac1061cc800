"""Label maps of a previous stage on the next one's grid: as references, and kept or redone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from targets import plain
from tinymodel import LABELS

from selfseg.errors import DatasetError, GeometryError
from selfseg.io.images import read_image
from selfseg.io.store import open_array
from selfseg.io.targets import read_targets
from selfseg.preprocessing.case import prepare_case
from selfseg.preprocessing.previous import preprocess_previous, read_previous
from selfseg.records import serial
from selfseg.records.dataset import Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import NoNormalization, Preprocessing

TARGETS = Targets(labels=LABELS)
OPTIONS = Preprocessing(
    axes=(1, 0, 2), spacing_mm=(1.5, 2.5, 1.2), normalization=(NoNormalization(),)
)


def write(path: Path, array: np.ndarray) -> Path:
    """Write an oblique, flipped volume."""
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((1.0, 1.1, 3.0))
    volume.SetDirection((-1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8))
    sitk.WriteImage(volume, str(path))
    return path


def make_case(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write image and label map with values 0, 1 and 4; a black border surrounds the image."""
    rng = np.random.default_rng(seed)
    values = np.kron(rng.choice([0, 1, 4], (3, 5, 4)), np.ones((3, 4, 5))).astype(np.uint8)
    image = np.pad(rng.random(values.shape) + 1.0, 3).astype(np.float32)
    folder.mkdir(exist_ok=True)
    return (
        write(folder / f"image{seed}.nii.gz", image),
        write(folder / f"map{seed}.nii.gz", np.pad(values, 3)),
    )


def as_indices(path: Path) -> np.ndarray:
    table = np.array([0, 1, -9, -9, 2], np.int16)
    indices: np.ndarray = table[read_image([path]).array[0].astype(int)]
    return indices


def test_a_map_takes_the_path_of_a_reference(tmp_path: Path) -> None:
    image, label = make_case(tmp_path)
    prepared = prepare_case("a", read_image([image]), as_indices(label), OPTIONS, targets=plain(2))
    assert prepared.label is not None
    found = read_previous(label, prepared.record, OPTIONS, TARGETS)
    assert found.dtype == np.int16
    assert np.array_equal(found, np.maximum(prepared.label, 0))
    assert set(np.unique(found)) == {0, 1, 2}


def test_a_map_of_another_size_is_refused(tmp_path: Path) -> None:
    image, _ = make_case(tmp_path)
    record = prepare_case("a", read_image([image]), None, OPTIONS).record
    other = write(tmp_path / "other.nii.gz", np.zeros((5, 5, 5), np.uint8))
    with pytest.raises(GeometryError, match=r"other.nii.gz: \(5, 5, 5\) voxels for an image"):
        read_previous(other, record, OPTIONS, TARGETS)


def test_a_map_of_regions_has_the_values_of_labels_and_no_other(tmp_path: Path) -> None:
    image, label = make_case(tmp_path)
    record = prepare_case("a", read_image([image]), None, OPTIONS).record
    plain = read_previous(label, record, OPTIONS, TARGETS)
    complaints: list[str] = []
    declared = {"background": 0, "whole": [1, 4], "rim": 4}
    regions = read_targets({"labels": declared, "regions_class_order": [1, 4]}, complaints)
    assert not complaints
    assert np.array_equal(read_previous(label, record, OPTIONS, regions), plain)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    other = write(tmp_path / "other.nii.gz", np.where(values == 1, 7, values).astype(np.uint8))
    # No data set can declare such a region, so a map with its value is another data set's.
    whole, rim = regions.regions
    strange = whole.model_copy(update={"value": 7})
    with pytest.raises(DatasetError, match=r"not declared in dataset\.json: 7"):
        read_previous(other, record, OPTIONS, Targets(labels=LABELS, regions=(strange, rim)))
    read_targets({"labels": declared, "regions_class_order": [7, 4]}, complaints)
    assert any("gives region 'whole' the value 7" in line for line in complaints)


def test_maps_are_made_once_and_again_after_a_change(tmp_path: Path) -> None:
    arrays, folder, maps = tmp_path / "arrays", tmp_path / "arrays" / "previous", {}
    for seed, case in enumerate("abc"):
        image, maps[case] = make_case(tmp_path / "data", seed)
        record = prepare_case(case, read_image([image]), None, OPTIONS, source="1").record
        serial.save(record, arrays / f"{case}.json")

    def make() -> int:
        return preprocess_previous(
            maps, arrays, folder, options=OPTIONS, targets=TARGETS, patch=(8, 8, 8), workers=0
        )

    assert make() == 3
    assert make() == 0
    (folder / "a.json").unlink()  # as a kill before the end leaves it
    assert make() == 1
    (folder / "a.json").write_text("{")
    assert make() == 1
    maps["b"].write_bytes(maps["c"].read_bytes())
    assert make() == 1
    record = serial.load(PreprocessedCase, arrays / "c.json")
    serial.save(record.model_copy(update={"source": "2"}), arrays / "c.json")
    assert make() == 1
    stored = np.asarray(open_array(folder / "c.b2nd")[:])
    assert np.array_equal(stored, read_previous(maps["c"], record, OPTIONS, TARGETS))
