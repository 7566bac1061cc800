"""Training with regions and with a tenth of the slices annotated, against plain labels."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from commandline import selfseg

from selfseg import phantoms

TEST, SLICES = 10, 20
STEPS = 1500
LABELS = {
    "plain": {"background": 0, "organ": 1, "lesion": 2},
    "regions": {"background": 0, "organ": [1, 2], "lesion": 2},
    "partial": {"background": 0, "organ": 1, "lesion": 2, "ignore": 3},
}


def write_kind(plain: Path, kind: str) -> Path:
    """Copy a plain data set with its labels described, or annotated, in another way."""
    root = plain.with_name(kind)
    shutil.copytree(plain, root, dirs_exist_ok=True)
    described = json.loads((root / "dataset.json").read_text())
    described |= {"name": kind, "labels": LABELS[kind]}
    if kind == "regions":
        described["regions_class_order"] = [1, 2]
    (root / "dataset.json").write_text(json.dumps(described))
    if kind == "partial":
        for path in (root / "labelsTr").iterdir():
            leave_a_tenth(path)
    return root


def leave_a_tenth(path: Path) -> None:
    """Mark nine tenths of the slices as not annotated, at places that depend on the case."""
    image = sitk.ReadImage(str(path))
    label = sitk.GetArrayFromImage(image)
    case = int(path.name.split(".")[0].split("_")[-1])
    annotated = [(7 * case + 10 * half) % SLICES for half in range(SLICES // 10)]
    sparse = np.full_like(label, 3)
    sparse[annotated] = label[annotated]
    written = sitk.GetImageFromArray(sparse)
    written.CopyInformation(image)
    sitk.WriteImage(written, str(path))


def unseen_dice(root: Path, workspace: Path, references: Path) -> dict[str, float]:
    """Train on all cases; return the Dice of organ and lesion as exclusive labels."""
    out = root.with_name(f"predicted_{root.name}")
    for command in (
        ("plan", root, "--workspace", workspace, "--device", "cpu"),
        ("train", root.name, "3d_fullres", "all", "--workspace", workspace, "--device", "cpu",
         "--epochs", "10", "--steps-per-epoch", STEPS // 10),
        ("predict", "-i", root / "imagesTs", "-o", out, "-m", workspace / root.name),
    ):  # fmt: skip
        result = selfseg(*map(str, command), limit_s=3600)
        assert result.returncode == 0, result.stderr
    return {name: dice(out, references, value) for name, value in (("organ", 1), ("lesion", 2))}


def dice(predicted: Path, references: Path, value: int) -> float:
    """Return the mean Dice of one label value over cases."""
    scores = []
    for path in sorted(references.iterdir()):
        truth, guess = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path.name))) == value
            for folder in (references, predicted)
        )
        scores.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return float(np.mean(scores))


@pytest.mark.bench
@pytest.mark.parametrize(("kind", "train"), [("regions", 24), ("partial", 96)])
def test_other_annotation_reaches_plain_training(kind: str, train: int, tmp_path: Path) -> None:
    """A tenth of the slices of 24 cases hold too few lesions: see docs/benchmarks.md."""
    plain = tmp_path / "base"
    phantoms.write_dataset(
        plain, name="base", train=train, test=TEST, seed=5,
        shape=(SLICES, 48, 48), spacing_mm=(3.0, 2.0, 2.0),
    )  # fmt: skip
    means = {}
    for name in ("plain", kind):
        root = write_kind(plain, name)
        scores = unseen_dice(root, tmp_path / "workspace", plain / "labelsTs")
        shown = ", ".join(f"{label} {value:.4f}" for label, value in scores.items())
        sys.stdout.write(f"\n{name}: {shown}\n")
        means[name] = np.mean(list(scores.values()))
    assert means[kind] > means["plain"] - 0.01
