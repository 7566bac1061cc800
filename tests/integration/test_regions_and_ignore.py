"""A user's way with overlapping regions in RGB pictures, and with partly annotated two channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from commandline import selfseg
from PIL import Image
from realdata import PROJECT, data_root

from selfseg.fingerprinting.extract import inspect
from selfseg.io.formats import read_dataset
from selfseg.io.images import label_indices, read_label_map
from selfseg.records import serial
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.metrics import MetricsTable
from selfseg.records.plan import Plan

CASES = 5


def write_pictures(root: Path) -> None:
    """Write RGB pictures of a disk (values 20, 70) with a core (70), as regions that overlap."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :72]
    for case in range(CASES):
        distance = np.hypot(y - rng.integers(25, 40), x - rng.integers(25, 45))
        label = np.select([distance < 8, distance < 18], [70, 20], 0).astype(np.uint8)
        picture = rng.normal(100, 8, (64, 72, 3)) + (label > 0)[..., None] * [60, 0, 0]
        picture += (label == 70)[..., None] * [0, 90, 0]
        for array, name in (
            (picture.clip(0, 255).astype(np.uint8), f"imagesTr/p{case}_0000.png"),
            (label, f"labelsTr/p{case}.png"),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / name)
    description = {
        "name": "pictures",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "disk": [20, 70], "core": 70},
        "regions_class_order": [20, 70],
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(description))


def write_volumes(root: Path) -> None:
    """Write volumes of two channels with a cube (4), annotated in three of ten slices (else 9).

    The cases besides the first, which fold 0 holds out, have all ten together: patches span the
    volume here, so a network would learn nothing about a slice that no case shows annotated.
    """
    rng = np.random.default_rng(0)
    for case in range(CASES):
        whole = np.zeros((10, 32, 32), np.uint8)
        top, left = rng.integers(4, 14, 2)
        whole[2:8, top : top + 14, left : left + 14] = 4
        label = np.full_like(whole, 9)
        known = (3 * case + np.arange(3)) % 10
        label[known] = whole[known]
        channels = [(whole > 0) * sign + rng.normal(0, 0.2, whole.shape) for sign in (1.0, -1.0)]
        for array, name in (
            (channels[0].astype(np.float32), f"imagesTr/v{case}_0000.nii.gz"),
            (channels[1].astype(np.float32), f"imagesTr/v{case}_0001.nii.gz"),
            (label, f"labelsTr/v{case}.nii.gz"),
            (whole, f"whole/v{case}.nii.gz"),
        ):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.0, 1.0, 2.0))
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(root / name))
    description = {
        "name": "volumes",
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "cube": 4, "ignore": 9},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))


def run(*arguments: str | Path) -> str:
    done = selfseg(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(root: Path, name: str, configuration: str, steps: int) -> MetricsTable:
    """Plan and train one fold; return the scores of its held-out cases."""
    shared: list[str | Path] = ["--workspace", root / "workspace", "--device", "cpu"]
    run("plan", root / "data", *shared, "--set", f"configurations.{configuration}.batch=2")
    run(
        "train", name, configuration, "0", *shared, "--epochs", "1", "--steps-per-epoch", f"{steps}"
    )
    folder = root / "workspace" / name / "models" / configuration / "fold_0" / "validation"
    return serial.load(MetricsTable, folder / "scores.json")


def test_pictures_with_overlapping_regions(tmp_path: Path) -> None:
    data, workspace = tmp_path / "data", tmp_path / "workspace"
    write_pictures(data)
    scores = train(tmp_path, "pictures", "2d", 60)
    plan = serial.load(Plan, workspace / "pictures" / "plan.json")
    assert plan.targets.names == ("disk", "core")
    assert [term.kind for term in plan.configurations[0].loss.terms] == [
        "dice",
        "binary_cross_entropy",
    ]
    assert list(scores.labels) == ["disk", "core"]
    assert scores.labels["disk"].dice is not None
    assert scores.labels["disk"].dice > 0.8

    out = tmp_path / "out"
    shared: list[str | Path] = ["--workspace", workspace, "--device", "cpu"]
    run("predict", "-i", data / "imagesTr", "-o", out, *shared, "--probabilities", "--config", "2d")
    label = np.asarray(Image.open(out / "p0.png"))
    assert set(np.unique(label)) <= {0, 20, 70}
    stored = np.load(out / "p0_probabilities.npz")
    assert stored["labels"].tolist() == ["disk", "core"]
    disk, core = stored["probabilities"][:, 0]
    decoded = np.where(core > 0.5, 70, np.where(disk > 0.5, 20, 0))
    assert (decoded == label).mean() > 0.999  # float16 rounds what is close to one half
    table = json.loads(run("evaluate", "-p", out, "-r", data / "labelsTr", "--json"))
    assert list(table["labels"]) == ["disk", "core"]
    selected = json.loads(run("select", "pictures", *shared, "--json"))
    assert selected["candidates"][0]["labels"].keys() == {"disk", "core"}


def test_two_channels_annotated_in_some_slices(tmp_path: Path) -> None:
    data, workspace = tmp_path / "data", tmp_path / "workspace"
    write_volumes(data)
    scores = train(tmp_path, "volumes", "3d_fullres", 40)
    facts = serial.load(Fingerprint, workspace / "volumes" / "fingerprint.json").cases
    assert [case.annotated_share for case in facts] == [0.3] * CASES
    plan = serial.load(Plan, workspace / "volumes" / "plan.json")
    assert all(planned.optimization.short_recipe.mirror for planned in plan.configurations)
    records = list((workspace / "volumes" / "preprocessed").glob("*/v0.json"))
    assert records
    for record in records:
        assert serial.load(PreprocessedCase, record).num_annotated == 3 * 32 * 32
    assert [case.case for case in scores.cases] == ["v0"]
    assert list(scores.labels) == ["cube"]
    assert scores.mean.dice is not None
    assert scores.mean.dice > 0.8

    out = tmp_path / "out"
    run(
        "predict", "-i", data / "imagesTr", "-o", out, "--workspace", workspace, "--device", "cpu",
        "--config", "3d_fullres",
    )  # fmt: skip
    predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "v0.nii.gz")))
    assert set(np.unique(predicted)) == {0, 4}
    partly = json.loads(run("evaluate", "-p", out, "-r", data / "labelsTr", "--json"))
    assert list(partly["labels"]) == ["cube"]
    # Slices that were never annotated are segmented as well as the others.
    fully = json.loads(run("evaluate", "-p", out, "-r", data / "whole", "--json"))
    assert fully["mean"]["dice"] > partly["mean"]["dice"] - 0.1


def overlapping_snippet() -> str:
    """Return the conversion of overlapping masks that datasets.md shows."""
    text = (PROJECT / "datasets.md").read_text(encoding="utf-8")
    (snippet,) = [part for part in text.split("```python\n")[1:] if 'Path("masks")' in part]
    return snippet.split("```")[0]


def check_conversion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert masks/ as documented; what is read from the label maps must be the masks."""
    monkeypatch.chdir(root)
    exec(compile(overlapping_snippet(), "datasets.md", "exec"), {})
    dataset = read_dataset(root)
    assert dataset.targets.names == ("gland", "landmark a", "landmark b")
    inspect(dataset, workers=1)  # has no complaints
    for case in dataset.cases:
        assert case.reference is not None
        masks = sitk.GetArrayFromImage(sitk.ReadImage(str(root / "masks" / f"{case.id}.nii.gz")))
        masks = masks if masks.ndim == 4 else masks[None]
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(root / case.reference.path)))
        for region, mask in zip(dataset.regions, masks, strict=False):
            np.testing.assert_array_equal(np.isin(label, region.values), mask > 0.5)
        image = read_label_map(root / case.reference.path)
        assert label_indices(image.array, dataset.labels).max() >= 1


def write_masks(path: Path, masks: np.ndarray, image: Path, seed: int) -> None:
    """Write binary channels (c, z, y, x) as a 4D file and an image on their grid."""
    for file in (path, image):
        file.parent.mkdir(parents=True, exist_ok=True)
    channels = [sitk.GetImageFromArray(mask.astype(np.float64)) for mask in masks]
    for channel in channels:
        channel.SetSpacing((0.4, 0.4, 0.8))
        channel.SetOrigin((3.0, -2.0, 5.0))
    sitk.WriteImage(sitk.JoinSeries(channels), str(path))
    noise = np.random.default_rng(seed).normal(size=masks.shape[1:]).astype(np.float32)
    picture = sitk.GetImageFromArray(noise)
    picture.CopyInformation(channels[0])
    sitk.WriteImage(picture, str(image))


def test_documented_conversion_of_overlapping_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in range(2):
        masks = np.zeros((3, 8, 12, 12), np.bool_)
        masks[0, 1:7, 2:10, 2:10] = True
        masks[1, 2:5, 3:6, 3:6] = True
        masks[2, 4:6, 5:9, 5 + case : 11] = case == 0  # empty in the second case
        name = f"c{case}"
        write_masks(
            tmp_path / "masks" / f"{name}.nii.gz", masks,
            tmp_path / "imagesTr" / f"{name}_0000.nii.gz", case,
        )  # fmt: skip
    check_conversion(tmp_path, monkeypatch)


def test_documented_conversion_of_real_overlapping_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data_root("overlapping") / "paired" / "train"
    (tmp_path / "masks").mkdir()
    (tmp_path / "imagesTr").mkdir()
    for path in sorted((source / "fixed_images").glob("*.nii.gz"))[:4]:
        image = path.name.replace(".nii.gz", "_0000.nii.gz")
        (tmp_path / "imagesTr" / image).symlink_to(path)
        (tmp_path / "masks" / path.name).symlink_to(source / "fixed_labels" / path.name)
    check_conversion(tmp_path, monkeypatch)
