"""A weakly trained network on soft-edged organs: `select` takes the dense CRF, and it helps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commandline import selfseg

from selfseg.evaluation.evaluate import Tolerances, evaluate_folders
from selfseg.phantoms.soft import write_soft_dataset
from selfseg.records import serial
from selfseg.records.selection import Selection
from selfseg.workspace.dataset import DatasetFolder

TRAIN, TEST, STEPS = 12, 6, 20
TOLERANCE_MM = 1.5  # one voxel


def run(root: Path, *arguments: str) -> None:
    """Run a command on the workspace of `root`."""
    where = ("--workspace", f"{root / 'workspace'}", "--device", "cpu")
    result = selfseg(*arguments, *where, limit_s=3600)
    assert result.returncode == 0, result.stderr


def unseen_nsd(root: Path, name: str) -> float:
    """Return the mean surface Dice of some predictions of the test images."""
    table = evaluate_folders(
        root / name, root / "data" / "labelsTs", tolerances=Tolerances(TOLERANCE_MM), workers=1
    )
    assert table.mean.nsd is not None
    return table.mean.nsd


@pytest.mark.bench
def test_select_takes_a_crf_that_gains_a_point(tmp_path: Path) -> None:
    write_soft_dataset(tmp_path / "data", name="soft", train=TRAIN, test=TEST, seed=1)
    run(tmp_path, "plan", f"{tmp_path / 'data'}")
    for fold in "01234":
        run(
            tmp_path, "train", "soft", "3d_fullres", fold, "--epochs", "1",
            "--steps-per-epoch", f"{STEPS}",
        )  # fmt: skip
    run(tmp_path, "select", "soft", "--metric", "nsd", "--tolerance", f"{TOLERANCE_MM}")
    selection = serial.load(Selection, DatasetFolder(tmp_path / "workspace" / "soft").selection)
    trial = selection.crf_trial
    assert trial is not None
    images = f"{tmp_path / 'data' / 'imagesTs'}"
    run(tmp_path, "predict", "-i", images, "-o", f"{tmp_path / 'refined'}")
    run(tmp_path, "predict", "-i", images, "-o", f"{tmp_path / 'plain'}", "--config", "3d_fullres")
    plain, refined = (unseen_nsd(tmp_path, name) for name in ("plain", "refined"))
    sys.stdout.write(
        f"\nheld out: NSD {selection.score.value:.4f}, CRF {trial.gain.value:+.4f} "
        f"({trial.gain.lower:+.4f} to {trial.gain.upper:+.4f}), {trial.because}\n"
        f"unseen: NSD {plain:.4f} without, {refined:.4f} with the selection\n"
    )
    assert trial.accepted
    assert trial.gain.value >= 0.01
    assert refined > plain
