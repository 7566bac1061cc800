"""What knows of shapes: a race where organs are partly hidden, a veto where blobs are unlike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commandline import selfseg

from selfseg.phantoms.occluded import write_blobs_dataset, write_occluded_dataset

# Each fold trains on few cases and holds out others, so that a gain can be told from chance.
FOLDS, TRAIN, HELD_OUT = 3, 10, 10
STEPS = 1500
CONFIGURATION = "configurations.3d_fullres"
SHAPE = [{"kind": "dice"}, {"kind": "cross_entropy"}, {"kind": "shape_code", "labels": ["organ"]}]


def run(*arguments: object) -> None:
    """Run `selfseg …` to its end."""
    result = selfseg(*map(str, arguments), limit_s=4 * 3600)
    assert result.returncode == 0, result.stderr


def write_folds(root: Path) -> None:
    """Give every fold cases of its own: first those it trains on, then those it holds out."""
    each = TRAIN + HELD_OUT
    folds = []
    for first in range(0, FOLDS * each, each):
        cases = [f"case_{number:03d}" for number in range(first, first + each)]
        folds.append({"train": cases[:TRAIN], "val": cases[TRAIN:]})
    (root / "splits_final.json").write_text(json.dumps(folds))


@pytest.mark.bench
def test_hiding_parts_wins_where_organs_are_partly_hidden(tmp_path: Path) -> None:
    root, workspace = tmp_path / "occluded", tmp_path / "workspace"
    write_occluded_dataset(
        root, name="occluded", train=FOLDS * (TRAIN + HELD_OUT), test=1, seed=3
    )  # fmt: skip
    write_folds(root)
    # without a time limit a race takes a quarter of the plan's epochs
    run("plan", root, "--workspace", workspace, "--device", "cpu",
        "--set", f"{CONFIGURATION}.network.features=[8,16,32]",
        "--set", f"{CONFIGURATION}.optimization.epochs=40",
        "--set", f"{CONFIGURATION}.optimization.steps_per_epoch={STEPS // 10}")  # fmt: skip
    run("race", "occluded", "--workspace", workspace, "--device", "cpu",
        "--config", "3d_fullres", "--ideas", "hidden_parts,shape_code")  # fmt: skip
    plan = json.loads((workspace / "occluded" / "plan.json").read_text())
    found = {idea["name"]: idea["trials"][-1] for idea in plan["nominated"] if idea["trials"]}
    for name, trial in found.items():
        sys.stdout.write(f"\n{name}: {trial['because']}\n{json.dumps(trial['gains'])}\n")
    gains = {gain["metric"]: gain["gain"]["value"] for gain in found["hidden_parts"]["gains"]}
    assert found["hidden_parts"]["accepted"]
    assert gains["dice"] >= 0.02


@pytest.mark.bench
def test_blobs_of_any_shape_are_vetoed(tmp_path: Path) -> None:
    root, workspace = tmp_path / "blobs", tmp_path / "workspace"
    write_blobs_dataset(root, name="blobs", train=10, test=1, seed=3)
    run("plan", root, "--workspace", workspace, "--device", "cpu",
        "--set", f"{CONFIGURATION}.network.features=[8,16,32]",
        "--set", f"{CONFIGURATION}.loss.terms={json.dumps(SHAPE)}")  # fmt: skip
    plan = json.loads((workspace / "blobs" / "plan.json").read_text())
    assert not {"shape_code", "hidden_parts"} & {idea["name"] for idea in plan["nominated"]}
    run("train", "blobs", "3d_fullres", "all", "--workspace", workspace, "--device", "cpu",
        "--epochs", 1, "--steps-per-epoch", 10)  # fmt: skip
    fold = workspace / "blobs" / "models" / "3d_fullres" / "fold_all"
    (model,) = json.loads((fold / "shapes.json").read_text())["models"]
    sys.stdout.write(f"\nblobs: {model['because']}\n")
    assert not model["accepted"]
