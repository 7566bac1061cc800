"""The shape constraint at equal steps: with an organ partly hidden, and with blobs all unlike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from commandline import selfseg

from selfseg.phantoms.occluded import write_blobs_dataset, write_occluded_dataset

TRAIN, TEST = 10, 20
STEPS = 300
FEATURES = "configurations.3d_fullres.network.features=[8,16,32,64]"
Terms = list[dict[str, object]]
PLAIN: Terms = [{"kind": "dice"}, {"kind": "cross_entropy"}]
SHAPE: dict[str, object] = {"kind": "shape_code", "labels": ["organ"]}
STRONG = {**SHAPE, "gradient_share": 2.0, "features": 1.0, "start": 0.05, "ramp": 0.1}


def trained(root: Path, arm: str, terms: Terms, seed: int) -> Path:
    """Train on all training cases with a loss; return the workspace's folder of the data set."""
    workspace = root.with_name(f"{root.name}_{arm}_{seed}")
    loss = f"configurations.3d_fullres.loss.terms={json.dumps(terms)}"
    for command in (
        ("plan", root, "--workspace", workspace, "--device", "cpu", "--set", FEATURES,
         "--set", loss),
        ("train", root.name, "3d_fullres", "all", "--workspace", workspace, "--device", "cpu",
         "--epochs", "10", "--steps-per-epoch", STEPS // 10, "--seed", seed),
    ):  # fmt: skip
        result = selfseg(*map(str, command), limit_s=7200)
        assert result.returncode == 0, result.stderr
    return workspace / root.name


def unseen_dice(root: Path, model: Path) -> np.ndarray:
    """Return the Dice of the test cases, in their order."""
    out = model.parent / "predicted"
    result = selfseg("predict", "-i", str(root / "imagesTs"), "-o", str(out), "-m", str(model))
    assert result.returncode == 0, result.stderr
    scores = []
    for path in sorted((root / "labelsTs").iterdir()):
        truth, guess = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path.name))) > 0
            for folder in (root / "labelsTs", out)
        )
        scores.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return np.array(scores)


@pytest.mark.bench
def test_a_shape_prior_does_no_harm_where_the_organ_is_partly_hidden(tmp_path: Path) -> None:
    root = tmp_path / "occluded"
    write_occluded_dataset(root, name="occluded", train=TRAIN, test=TEST, seed=3)
    without = unseen_dice(root, trained(root, "plain", PLAIN, 0))
    for arm, term in (("shape", SHAPE), ("strong", STRONG)):
        scores = unseen_dice(root, trained(root, arm, [*PLAIN, term], 0))
        better = int((scores > without).sum())
        sys.stdout.write(
            f"\n{STEPS} steps: plain {without.mean():.4f}, {arm} {scores.mean():.4f}, better in "
            f"{better} of {TEST}\n"
        )
        assert scores.mean() > without.mean() - 0.01


@pytest.mark.bench
def test_blobs_of_any_shape_are_vetoed(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    write_blobs_dataset(root, name="blobs", train=TRAIN, test=1, seed=3)
    model = trained(root, "shape", [*PLAIN, SHAPE], 0)
    record = json.loads((model / "models/3d_fullres/fold_all/shapes.json").read_text())
    sys.stdout.write(f"\nblobs: {record['models'][0]['because']}\n")
    assert not record["models"][0]["accepted"]
