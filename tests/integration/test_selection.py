"""A user's way: train two configurations, select, predict with what was selected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import TINY_NETWORK, selfseg, write_tiny_dataset

from selfseg.records import serial
from selfseg.records.selection import Selection

CONFIGURATIONS = ("2d", "3d_fullres")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and workspace/: two configurations, two folds each, some steps."""
    root = tmp_path_factory.mktemp("selection")
    data = write_tiny_dataset(root / "data", train=6)
    shared: list[str | Path] = ["--workspace", root / "workspace", "--device", "cpu"]
    planned = selfseg("plan", data, *shared, *TINY_NETWORK)
    assert planned.returncode == 0, planned.stderr
    for configuration in CONFIGURATIONS:
        for fold in ("0", "1"):
            done = selfseg(
                "train", "tiny", configuration, fold, *shared,
                "--epochs", "1", "--steps-per-epoch", "12",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    return root


def predict(root: Path, output: str, *options: str) -> str:
    """Predict the test images; return what the command said."""
    done = selfseg(
        "predict", "-i", root / "data" / "imagesTs", "-o", root / output,
        "--workspace", root / "workspace", "--device", "cpu", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((root / output).glob("*.nii.gz"))) == 2
    return done.stderr


def test_select_then_predict(trained: Path) -> None:
    workspace = trained / "workspace"
    refused = selfseg(
        "predict", "-i", trained / "data" / "imagesTs", "-o", trained / "none",
        "--workspace", workspace, "--device", "cpu",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "selfseg select" in refused.stderr

    # A fold whose held-out cases were lost is predicted again.
    lost = workspace / "tiny/models/2d/fold_0/validation/probabilities"
    names = sorted(path.name for path in lost.iterdir())
    (lost / names[0]).unlink()
    done = selfseg("select", "tiny", "--workspace", workspace, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in lost.iterdir()) == names
    selection = serial.load(Selection, workspace / "tiny" / "selection.json")
    assert json.loads(done.stdout) == json.loads(selection.model_dump_json())
    assert {c.name for c in selection.candidates} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert selection.folds == ("0", "1")
    assert all(len(c.cases) == len(names) * 2 or c.cases for c in selection.candidates)

    said = predict(trained, "selected")
    assert all(member.configuration in said for member in selection.members)
    assert "selection.json" in said
    asked = predict(trained, "asked", "--config", "2d")
    assert "selection.json" not in asked

    # An ensemble of both, whatever was chosen; then one whose weights have changed since.
    both = next(c for c in selection.candidates if len(c.members) == 2)
    members = {m.configuration: m for m in selection.members}
    forced = selfseg("select", "tiny", "--workspace", workspace, "--device", "cpu")
    assert forced.returncode == 0
    assert "selected" in forced.stdout
    assert both.members == CONFIGURATIONS
    weights = workspace / "tiny/models" / next(iter(members)) / "fold_1/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    stale = selfseg(
        "predict", "-i", trained / "data" / "imagesTs", "-o", trained / "none",
        "--workspace", workspace, "--device", "cpu",
    )  # fmt: skip
    assert stale.returncode == 2
    assert "fold 1 have changed" in stale.stderr
    assert "several trained models" in stale.stderr
