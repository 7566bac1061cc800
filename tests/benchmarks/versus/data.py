"""The data of the comparisons: real ones in place, generated ones, and nnU-Net's folders around."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

CT_CASES, CT_SHAPE, CT_SPACING_MM = 6, (200, 512, 512), (1.5, 0.8, 0.8)


def nnunet_environment(folder: Path) -> Mapping[str, str]:
    """Return the variables that nnU-Net wants, with all its folders below one."""
    folders = {name: str(folder / name) for name in ("raw", "preprocessed", "results")}
    return {f"nnUNet_{name}": path for name, path in folders.items()} | {
        "nnUNet_compile": "false",
        "nnUNet_def_n_proc": "2",
        "nnUNet_n_proc_DA": "2",
        "OMP_NUM_THREADS": "2",
    }


def link_for_nnunet(dataset: Path, folder: Path, number: int) -> Path:
    """Put links to a data set of the nnU-Net layout where nnU-Net looks for it; return where."""
    target = folder / "raw" / f"Dataset{number:03d}_{dataset.name}"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to((dataset / name).resolve())
    return target


def take_cases(source: Path, names: list[str], target: Path) -> Path:
    """Copy some training cases of a data set of the nnU-Net layout; return the target."""
    described = json.loads((source / "dataset.json").read_text())
    ending = described["file_ending"]
    for part, suffix in (("imagesTr", f"_0000{ending}"), ("labelsTr", ending)):
        (target / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(source / part / f"{name}{suffix}", target / part / f"{name}{suffix}")
    described["numTraining"] = len(names)
    (target / "dataset.json").write_text(json.dumps(described))
    return target


def take_images(source: Path, names: list[str], target: Path) -> Path:
    """Copy images of some cases of the nnU-Net layout into an empty folder; return it."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / f"{name}_0000.nii.gz", target / f"{name}_0000.nii.gz")
    return target


def write_ct(
    root: Path,
    *,
    cases: int = CT_CASES,
    shape: tuple[int, int, int] = CT_SHAPE,
    spacing_mm: tuple[float, float, float] = CT_SPACING_MM,
) -> Path:
    """Write CT-like cases: air around an elliptic body, an organ of two parts, noise; int16."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for case in range(cases):
        image, label = _ct(rng, shape)
        for array, path in (
            (image, root / "imagesTr" / f"ct_{case}_0000.nii.gz"),
            (label, root / "labelsTr" / f"ct_{case}.nii.gz"),
        ):
            written = sitk.GetImageFromArray(array)
            written.SetSpacing(spacing_mm[::-1])
            sitk.WriteImage(written, str(path))
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "name": root.name,
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def _ct(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    shift = rng.uniform(-0.1, 0.1, 3)
    body = (y / 0.6) ** 2 + (x / 0.85) ** 2 + 0 * z <= 1
    organ = ((z - shift[0]) / 0.5) ** 2 + ((y - shift[1]) / 0.3) ** 2 + ((x + 0.3) / 0.4) ** 2 <= 1
    lesion = ((z - shift[0]) / 0.15) ** 2 + ((y - shift[1]) / 0.1) ** 2 + (
        (x + 0.3) / 0.1
    ) ** 2 <= 1
    label = np.zeros(shape, np.uint8)
    label[organ], label[lesion] = 1, 2
    image = np.where(body, 40.0, -1000.0).astype(np.float32)
    image[organ], image[lesion] = 110.0, 60.0
    noise = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 0.8)
    image += noise * (25.0 / noise.std())
    return image.round().astype(np.int16), label
