"""`selfseg export --nnunet`: a data set as nnU-Net reads it, and as we read it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from targets import nested, plain
from typer.testing import CliRunner

from selfseg.cli.main import app
from selfseg.errors import SelfSegError
from selfseg.exporting import export_dataset
from selfseg.io.formats import read_dataset
from selfseg.io.images import read_image
from selfseg.io.nnunet.raw import describe
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Fold, Splits, Targets
from selfseg.workspace.dataset import DatasetFolder

VALUES = {"background": 0, "core": 3, "rim": 7, "ignore": 9}


def write_dataset(root: Path, labels: dict[str, int]) -> Path:
    """Write two cases: both channels in one file, labels stored as float."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        image = SimpleITK.GetImageFromArray(generator.normal(size=(4, 5, 6, 2)), isVector=True)
        label = SimpleITK.GetImageFromArray(
            generator.choice(list(labels.values()), (4, 5, 6)).astype(np.float32)
        )
        for picture, folder in ((image, "imagesTr"), (label, "labelsTr")):
            picture.SetSpacing((1.0, 2.0, 3.0))
            (root / folder).mkdir(parents=True, exist_ok=True)
            ending = ".nrrd" if folder == "labelsTr" else ".nii.gz"
            SimpleITK.WriteImage(picture, str(root / folder / f"{name}{ending}"))
    described = {
        "name": "two",
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": labels,
        "file_ending": {"image": ".nii.gz", "label": ".nrrd"},
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def array(path: Path) -> np.ndarray:
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))


def test_values_become_consecutive_and_all_else_stays(tmp_path: Path) -> None:
    root, output = write_dataset(tmp_path / "data", VALUES), tmp_path / "raw" / "Dataset001_two"
    done = CliRunner().invoke(app, ["export", str(root), "--nnunet", "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "2 cases written to" in done.stdout
    described = json.loads((output / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "core": 1, "rim": 2, "ignore": 3}
    assert described["channel_names"] == {"0": "T1", "1": "T2"}
    assert described["numTraining"] == 2
    assert described["file_ending"] == ".nii.gz"
    for name in ("a", "b"):
        found = SimpleITK.ReadImage(str(output / "labelsTr" / f"{name}.nii.gz"))
        assert found.GetPixelID() == SimpleITK.sitkUInt8
        assert found.GetSpacing() == (1.0, 2.0, 3.0)
        stored = array(root / "labelsTr" / f"{name}.nrrd")
        expected = np.select([stored == 3, stored == 7, stored == 9], [1, 2, 3], 0)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), expected)
        copied = output / "imagesTr" / f"{name}_0000.nii.gz"
        assert copied.read_bytes() == (root / "imagesTr" / f"{name}.nii.gz").read_bytes()
    again = read_dataset(output)
    assert again.channels == ("T1", "T2")
    assert [label.value for label in again.labels] == [1, 2]
    assert again.ignore == 3
    with pytest.raises(SelfSegError, match="is not empty"):
        export_dataset(str(root), output, workspace=tmp_path)


def test_images_of_other_formats_are_converted_channel_by_channel(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", VALUES)
    described = json.loads((root / "dataset.json").read_text())
    del described["file_ending"]
    (root / "dataset.json").write_text(json.dumps(described))
    old = root / "imagesTr" / "b.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(old)), str(old.with_name("b.nrrd")))
    old.unlink()
    export_dataset(str(root), tmp_path / "raw", workspace=tmp_path)
    both = array(root / "imagesTr" / "b.nrrd")
    for index in (0, 1):
        found = array(tmp_path / "raw" / "imagesTr" / f"b_000{index}.nii.gz")
        np.testing.assert_allclose(found, both[..., index], rtol=1e-6)


def rewritten(root: Path, ending: str) -> None:
    """Store the images of `write_dataset` in another format."""
    described = json.loads((root / "dataset.json").read_text())
    described["file_ending"]["image"] = ending
    (root / "dataset.json").write_text(json.dumps(described))
    for path in sorted((root / "imagesTr").iterdir()):
        image = SimpleITK.ReadImage(str(path))
        SimpleITK.WriteImage(image, str(path).replace(".nii.gz", ending))
        path.unlink()


def test_images_whose_voxels_lie_in_another_file_are_converted(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", VALUES)
    expected = array(root / "imagesTr" / "a.nii.gz")
    rewritten(root, ".mhd")
    export_dataset(str(root), tmp_path / "raw", workspace=tmp_path)
    assert json.loads((tmp_path / "raw" / "dataset.json").read_text())["file_ending"] == ".nii.gz"
    for index in (0, 1):
        found = array(tmp_path / "raw" / "imagesTr" / f"a_000{index}.nii.gz")
        np.testing.assert_array_equal(found, expected[..., index].astype(np.float32))
    assert len(list((tmp_path / "raw" / "imagesTr").iterdir())) == 4


def test_lossy_pictures_do_not_make_label_maps_lossy(tmp_path: Path) -> None:
    root = tmp_path / "data"
    values = np.random.default_rng(0).integers(0, 2, (16, 20), dtype=np.uint8)
    for folder, name in (("imagesTr", "a.jpg"), ("labelsTr", "a.png")):
        (root / folder).mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(root / folder / name))
    described = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "cell": 1},
        "file_ending": {"image": ".jpg", "label": ".png"},
    }
    (root / "dataset.json").write_text(json.dumps(described))
    export_dataset(str(root), tmp_path / "raw", workspace=tmp_path)
    np.testing.assert_array_equal(array(tmp_path / "raw" / "labelsTr" / "a.nii.gz"), values)
    assert read_dataset(tmp_path / "raw").cases[0].images[0].path.endswith("a_0000.nii.gz")


def test_the_spacing_beside_a_tiff_goes_along(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", VALUES)
    for path in sorted((root / "imagesTr").iterdir()):
        volume = np.ones((4, 5, 6), np.float32)
        target = path.with_name(path.name.replace(".nii.gz", ".tif"))
        tifffile.imwrite(target, volume, photometric="minisblack", metadata={"axes": "ZYX"})
        beside = path.with_name(path.name.replace(".nii.gz", ".json"))
        beside.write_text(json.dumps({"spacing": [3.0, 2.0, 1.0]}))
        path.unlink()
    described = json.loads((root / "dataset.json").read_text())
    described |= {"channel_names": {"0": "T1"}, "file_ending": {"image": ".tif", "label": ".nrrd"}}
    (root / "dataset.json").write_text(json.dumps(described))
    export_dataset(str(root), tmp_path / "raw", workspace=tmp_path)
    image = read_image([tmp_path / "raw" / "imagesTr" / "a_0000.tif"])
    assert image.native.spacing_mm == (3.0, 2.0, 1.0)
    label = read_image([tmp_path / "raw" / "labelsTr" / "a.tif"])
    assert label.native.spacing_mm == (3.0, 2.0, 1.0)


def test_folds_of_a_planned_data_set_go_along_and_failures_leave_nothing(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", VALUES)
    folder = DatasetFolder(tmp_path / "ws" / "two")
    serial.save(read_dataset(root), folder.dataset)
    (folder.path / "plan.json").write_text("{}")
    folds = (Fold(train=("a",), validation=("b",)),)
    serial.save(Splits(folds=folds), folder.splits)
    export_dataset("two", tmp_path / "raw" / "x", workspace=tmp_path / "ws")
    written = json.loads((tmp_path / "raw" / "x" / "splits_final.json").read_text())
    assert written == [{"train": ["a"], "val": ["b"]}]
    export_dataset(str(folder.path), tmp_path / "same" / "x", workspace=tmp_path)  # so may be given
    assert json.loads((tmp_path / "same" / "x" / "splits_final.json").read_text()) == written
    shutil.copy(root / "imagesTr" / "a.nii.gz", root / "labelsTr" / "b.nrrd")
    with pytest.raises(SelfSegError):
        export_dataset(str(root), tmp_path / "raw" / "y", workspace=tmp_path)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["x"]


def test_what_is_no_data_set_needs_no_plan_but_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SelfSegError, match="absent: neither a folder nor the name") as refused:
        export_dataset(str(tmp_path / "absent"), tmp_path / "x", workspace=tmp_path)
    assert "need not be planned" in refused.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(SelfSegError, match=r"no dataset\.json in it"):
        export_dataset(str(tmp_path / "empty"), tmp_path / "x", workspace=tmp_path)


def dataset_of(targets: Targets) -> Dataset:
    return Dataset(
        name="x", root="/", layout="nnunet", channels=("CT",), labels=targets.labels,
        regions=targets.regions, ignore=targets.ignore, cases=(),
    )  # fmt: skip


def test_regions_keep_their_order() -> None:
    described = describe(dataset_of(nested(ignore=9)), ".nii.gz")
    assert list(described["labels"]) == ["background", "whole", "core", "center", "ignore"]
    assert described["labels"]["core"] == [2, 3]
    assert described["labels"]["ignore"] == 4
    assert described["regions_class_order"] == [1, 2, 3]
    assert "regions_class_order" not in describe(dataset_of(plain(2)), ".nii.gz")
