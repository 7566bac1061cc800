"""What planning has prepared, in words that are equal for both sides if they did the same work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np

COMMON = ("2d", "3d_fullres", "3d_lowres")  # further ones of either side use their arrays
SHARE = 1000  # labels are told in so many parts of all voxels: crops and rounding differ a little


def selfseg_prepared(folder: Path) -> str:
    """Describe the training arrays in the folder of a planned data set."""
    from selfseg.records import serial
    from selfseg.records.plan import Plan
    from selfseg.workspace.dataset import DatasetFolder

    files = DatasetFolder(folder)
    arrays: dict[str, Path] = {
        configuration.name: files.preprocessed(configuration.preprocessing)
        for configuration in serial.load(Plan, files.plan).configurations
    }
    return _described(arrays, "_label")


def nnunet_prepared(folder: Path) -> str:
    """Describe the training arrays in nnU-Net's preprocessed folder of a data set."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    arrays = {
        name: folder / configuration["data_identifier"]
        for name, configuration in plans["configurations"].items()
        if "data_identifier" in configuration
    }
    return _described(arrays, "_seg")


def _described(folders: dict[str, Path], suffix: str) -> str:
    names = [name for name in COMMON if name in folders]
    return "; ".join(f"{name}: {_contents(folders[name], suffix)}" for name in names)


def _contents(folder: Path, suffix: str) -> str:
    """Tell cases, voxels and labels of a folder of arrays; labels are stored as CASE + suffix."""
    cases, counts = 0, np.zeros(256, np.int64)
    for path in sorted(folder.glob(f"*{suffix}.b2nd")):
        image = blosc2.open(str(path.with_name(path.name.replace(f"{suffix}.b2nd", ".b2nd"))))
        label = blosc2.open(str(path))
        if image.shape[-3:] != label.shape[-3:]:
            raise RuntimeError(f"{path}: {label.shape}, but its image {image.shape}")
        cases += 1
        for part in _slices(label):
            counts += np.bincount(part.ravel(), minlength=len(counts))
    total = int(counts.sum())
    shares = [round(SHARE * count / max(total, 1)) for count in np.trim_zeros(counts, "b")]
    return f"{cases} cases, {total / 1e6:.1f} M voxels, labels {shares} of {SHARE}"


def _slices(label: blosc2.NDArray) -> Iterator[np.ndarray]:
    """Yield the slices of a label map, -1 (outside the body) as background."""
    for index in range(label.shape[-3]):
        yield np.maximum(label[..., index, :, :], 0)
