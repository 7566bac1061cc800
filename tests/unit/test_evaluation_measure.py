"""`selfseg measure`: sizes, places and intensities of lesions whose truth is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from selfseg.cli.main import app
from selfseg.errors import DatasetError
from selfseg.evaluation.measure import measure_folders
from selfseg.io.images import write_label_map, write_volume
from selfseg.records import serial
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.measurement import MeasurementTable

GEOMETRY = Geometry(shape=(6, 12, 14), spacing_mm=(2.0, 1.0, 0.5), origin_mm=(10.0, 20.0, 30.0))
# The same place in the world, stored from right to left and from back to front.
TURNED = Geometry(
    shape=(6, 12, 14),
    spacing_mm=(2.0, 1.0, 0.5),
    origin_mm=(10.0 + 13 * 0.5, 20.0 + 11 * 1.0, 30.0),
    direction=((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
)
FLIPS = (False, True, True)
LABELS = (Label(name="tumor", value=1), Label(name="cyst", value=4))


def label_map() -> np.ndarray:
    indices = np.zeros(GEOMETRY.shape, dtype=np.int16)
    indices[1, 1, 1] = 1
    indices[2:4, 3:7, 4:12] = 1  # 2 x 4 x 8 voxels of 1 mm3
    indices[5, 11, 0:2] = 2
    return indices


def channel() -> np.ndarray:
    return np.arange(6 * 12 * 14, dtype=np.float32).reshape(GEOMETRY.shape)


def write_case(folder: Path, name: str, *, turned: bool = False, images: int = 1) -> None:
    native = TURNED if turned else GEOMETRY
    orientation = Orientation(flips=FLIPS if turned else (False, False, False))
    path = folder / "masks" / f"{name}.nrrd"
    write_label_map(label_map(), LABELS, native=native, orientation=orientation, path=path)
    for index in range(images):
        end = f"_{index:04d}" if images > 1 else ""
        path = folder / "images" / f"{name}{end}.nrrd"
        write_volume(channel() + index, native=native, orientation=orientation, path=path)


@pytest.mark.parametrize("turned", [False, True])
def test_sizes_places_and_intensities_are_those_of_the_lesion(tmp_path: Path, turned: bool) -> None:
    write_case(tmp_path, "a", turned=turned)
    described = {"labels": {"background": 0, "tumor": 1, "cyst": 4}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    table = measure_folders(tmp_path / "masks", tmp_path / "images")
    large, small, _ = table.lesions
    assert [(item.label, item.lesion) for item in table.lesions] == [
        ("tumor", 1),
        ("tumor", 2),
        ("cyst", 1),
    ]
    assert large.volume_ml == pytest.approx(0.064)
    assert small.volume_ml == pytest.approx(0.001)
    # x: 10 + 0.5 · 7.5, y: 20 + 4.5, z: 30 + 2 · 2.5
    assert large.center_mm == pytest.approx((13.75, 24.5, 35.0))
    # 4 x 4 mm in a slice, corners cut halfway; two slices of 2 mm.
    assert 4.9 < large.longest_axial_mm < np.hypot(4, 4)
    assert large.longest_axial_mm < large.longest_3d_mm < np.linalg.norm((4, 4, 4))
    inside = channel()[2:4, 3:7, 4:12].astype(float)
    found = large.intensities[0]
    assert found.mean == pytest.approx(inside.mean())
    assert found.standard_deviation == pytest.approx(inside.std())
    assert (found.minimum, found.maximum) == (inside.min(), inside.max())
    assert (found.p10, found.median, found.p90) == pytest.approx(
        tuple(np.percentile(inside, (10, 50, 90)))
    )
    assert small.intensities[0].standard_deviation == 0.0


def test_the_command_writes_json_and_csv(tmp_path: Path) -> None:
    write_case(tmp_path, "a", images=2)
    write_case(tmp_path, "b", images=2)
    empty = np.zeros(GEOMETRY.shape, np.int16)
    path = tmp_path / "masks" / "c.nrrd"
    write_label_map(empty, LABELS, native=GEOMETRY, orientation=Orientation(), path=path)
    write_volume(
        channel(), native=GEOMETRY, orientation=Orientation(), path=tmp_path / "images" / "c.nrrd"
    )
    out = tmp_path / "measured.csv"
    arguments = ["measure", "-p", tmp_path / "masks", "-i", tmp_path / "images", "-o", out]
    result = CliRunner().invoke(app, [*map(str, arguments), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "1 case without lesions: c" in result.output
    table = serial.load(MeasurementTable, out.with_suffix(".json"))
    assert table.empty == ("c",)
    assert {item.label for item in table.lesions} == {"label_1", "label_4"}
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["case"], row["label"], row["lesion"]) for row in rows[:3]] == [
        ("a", "label_1", "1"),
        ("a", "label_1", "2"),
        ("a", "label_4", "1"),
    ]
    assert float(rows[0]["mean_1"]) == pytest.approx(float(rows[0]["mean"]) + 1)
    assert None not in rows[0]


def test_without_images_there_are_sizes_only(tmp_path: Path) -> None:
    write_case(tmp_path, "a", images=0)
    table = measure_folders(tmp_path / "masks", None)
    assert table.lesions[0].intensities == ()
    assert table.lesions[0].volume_ml == pytest.approx(0.064)


@pytest.mark.parametrize("lowest", [-5, 0])
def test_images_in_place_of_label_maps_are_refused(tmp_path: Path, lowest: int) -> None:
    path = tmp_path / "masks" / "a.nrrd"
    values = channel() + lowest
    write_volume(values, native=GEOMETRY, orientation=Orientation(), path=path)
    with pytest.raises(DatasetError, match=r"a\.nrrd: 1008 values from .* is it an image"):
        measure_folders(tmp_path / "masks", None)
    few = np.minimum(values, 3)
    write_volume(few, native=GEOMETRY, orientation=Orientation(), path=path)
    if lowest < 0:
        with pytest.raises(DatasetError, match="9 values from -5 to 3"):
            measure_folders(tmp_path / "masks", None)
    else:
        assert measure_folders(tmp_path / "masks", None).lesions


def test_all_complaints_about_images_come_at_once(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    write_case(tmp_path, "b", images=0)
    write_case(tmp_path, "c", images=2)
    (tmp_path / "images" / "c_0000.nrrd").rename(tmp_path / "images" / "c_0007.nrrd")
    with pytest.raises(DatasetError) as caught:
        measure_folders(tmp_path / "masks", tmp_path / "images")
    assert len(caught.value.complaints) == 2
    assert "case b: no image" in str(caught.value)
    assert "c_0001.nrrd, c_0007.nrrd" in str(caught.value)


def test_an_image_on_another_grid_is_named(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    other = GEOMETRY.model_copy(update={"spacing_mm": (2.0, 1.0, 0.6)})
    path = tmp_path / "images" / "a.nrrd"
    write_volume(channel(), native=other, orientation=Orientation(), path=path)
    with pytest.raises(DatasetError, match=r"a\.nrrd: not on the grid of .*spacing"):
        measure_folders(tmp_path / "masks", tmp_path / "images")
