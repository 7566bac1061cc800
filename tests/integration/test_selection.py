"""A user's way: train two configurations, select, predict with what was selected."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from commandline import TINY_NETWORK, selfseg, write_tiny_dataset

from selfseg.folds import open_planned
from selfseg.io.images import read_label_map
from selfseg.planning import find_selector
from selfseg.records import serial
from selfseg.records.selection import Selection
from selfseg.selection.candidates import compare
from selfseg.workspace.dataset import DatasetFolder

CONFIGURATIONS = ("2d", "3d_fullres")


pytestmark = pytest.mark.slow


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the workspace of `root`."""
    return selfseg(*arguments, "--workspace", str(root / "workspace"), "--device", "cpu")


def predict(root: Path, output: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Predict the test images."""
    return run(root, "predict", "-i", f"{root}/data/imagesTs", "-o", f"{root}/{output}", *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and workspace/: two configurations, two folds each, some steps."""
    root = tmp_path_factory.mktemp("selection")
    write_tiny_dataset(root / "data", train=5, test=1)
    length = ("--epochs", "1", "--steps-per-epoch", "8")
    commands: list[tuple[str, ...]] = [("plan", str(root / "data"), *TINY_NETWORK)]
    commands += [("train", "tiny", c, fold, *length) for c in CONFIGURATIONS for fold in "01"]
    for command in commands:
        done = run(root, *command)
        assert done.returncode == 0, done.stderr
    return root


def test_several_models_need_a_selection(trained: Path) -> None:
    refused = predict(trained, "none")
    assert refused.returncode == 2
    assert "selfseg select" in refused.stderr


def test_select_then_predict(trained: Path) -> None:
    dataset = DatasetFolder(trained / "workspace" / "tiny")
    # A held-out case whose probabilities were lost is predicted again.
    lost = dataset.fold("2d", "0").probabilities
    (first, *_) = names = sorted(path.name for path in lost.iterdir())
    content = (lost / first).read_bytes()
    (lost / first).unlink()
    done = run(trained, "select", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in lost.iterdir()) == names
    assert (lost / first).read_bytes() == content
    selection = serial.load(Selection, dataset.selection)
    assert json.loads(done.stdout) == json.loads(selection.model_dump_json())
    assert {c.name for c in selection.candidates} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert selection.folds == ("0", "1")
    shown = run(trained, "select", "tiny")
    assert shown.returncode == 0, shown.stderr
    assert "2d + 3d_fullres" in shown.stdout
    assert f"Selected: {selection.decisions[0].value}" in shown.stdout

    said = predict(trained, "selected")
    assert said.returncode == 0, said.stderr
    assert "selection.json" in said.stderr
    asked = predict(trained, "asked", "--config", "2d")
    assert asked.returncode == 0, asked.stderr
    assert "selection.json" not in asked.stderr

    # An ensemble, whatever was chosen here.
    flat, volume = compare(open_planned(dataset), find_selector().selection_rules()).trained
    both = selection.model_copy(update={"members": (flat.member, volume.member)})
    serial.save(both, dataset.selection)
    said = predict(trained, "ensemble")
    assert said.returncode == 0, said.stderr
    assert "2d (folds 0, 1) + 3d_fullres (folds 0, 1)" in said.stderr
    (made,) = (trained / "ensemble").glob("[!.]*")
    given = read_label_map(trained / "data" / "labelsTs" / made.name)
    assert read_label_map(made).native == given.native

    # Weights that have changed since: the selection is not used.
    weights = dataset.fold("2d", "1").weights
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    stale = predict(trained, "none")
    assert stale.returncode == 2
    assert "weights have changed or gone, those of 2d fold 1" in stale.stderr
    assert "several trained models" in stale.stderr
