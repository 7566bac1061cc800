"""From a trained model to another data set, through the commands, as a user does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import (
    TINY_NETWORK,
    TINY_SHAPE,
    TINY_SPACING_MM,
    selfseg,
    write_tiny_dataset,
)

from selfseg import phantoms
from selfseg.files import file_digest
from selfseg.records import serial
from selfseg.records.plan import Configuration, Plan
from selfseg.records.transfer import Start, TransferReport

pytestmark = pytest.mark.slow

SHORT = ("--device", "cpu", "--epochs", "1", "--steps-per-epoch", "2", "--workers", "0")


def test_a_plan_fits_the_model_and_a_training_starts_from_it(tmp_path: Path) -> None:
    shared = ("--workspace", tmp_path / "workspace", "--device", "cpu")
    large = write_tiny_dataset(tmp_path / "large", train=4, name="large")
    small = tmp_path / "small"
    phantoms.write_dataset(
        small,
        name="small",
        train=4,
        test=0,
        seed=8,
        shape=TINY_SHAPE,
        spacing_mm=TINY_SPACING_MM,
    )
    done = selfseg("plan", large, *shared, *TINY_NETWORK, "--workers", "0")
    assert done.returncode == 0, done.stderr
    done = selfseg("train", "large", "3d_fullres", "all", *shared, *SHORT)
    assert done.returncode == 0, done.stderr

    # Its own plan has wider networks, from which nothing can be taken.
    done = selfseg("plan", small, *shared, "--workers", "0", "--no-preprocess")
    assert done.returncode == 0, done.stderr
    done = selfseg("train", "small", "3d_fullres", "0", *shared, *SHORT, "--init", "large")
    assert done.returncode == 2
    assert "cannot start from large 3d_fullres fold all" in done.stderr
    assert "selfseg plan DATASET --init" in done.stderr

    done = selfseg("plan", "small", *shared, "--init", "large", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "train small 3d_fullres 0" in done.stdout
    plans = [
        serial.load(Plan, tmp_path / "workspace" / name / "plan.json")
        for name in ("large", "small")
    ]
    theirs, ours = (
        next(item for item in plan.configurations if item.name == "3d_fullres") for plan in plans
    )
    assert (ours.network, ours.patch) == (theirs.network, theirs.patch)
    assert ours.preprocessing == theirs.preprocessing  # CT: clipped and scaled as the model knows
    assert plans[1].proposed[0] == "3d_fullres"
    weights = tmp_path / "workspace" / "large" / "models" / "3d_fullres" / "fold_all"
    assert plans[1].init == Start(
        folder="large",
        configuration="3d_fullres",
        weights=(file_digest(weights / "weights.safetensors"),),
    )
    _check_verdict(plans[1], ours, done.stdout, done.stderr)
    assert {d.subject for d in plans[1].decisions if d.rule == "init"} >= {
        "configurations.3d_fullres.patch",
        "configurations.3d_fullres.preprocessing.normalization",
    }

    done = selfseg("train", "small", "3d_fullres", "0", *shared, *SHORT, "--init", "large")
    assert done.returncode == 0, done.stderr
    assert "random weights" not in done.stderr
    assert "100.0%" in done.stdout
    fold = tmp_path / "workspace" / "small" / "models" / "3d_fullres" / "fold_0"
    report = serial.load(TransferReport, fold / "transfer.json")
    assert (report.loaded_share, report.fresh) == (1.0, ())
    assert json.loads((fold / "fold.json").read_text())["start"]["dataset"] == "large"
    assert (fold / "validation" / "scores.json").is_file()

    # A fold of the same data set that has seen what another holds out is no start.
    done = selfseg("train", "large", "3d_fullres", "0", *shared, *SHORT, "--init", "large")
    assert done.returncode == 2
    assert "was trained on cases that this fold holds out" in done.stderr
    _start_from_a_file(tmp_path)


def _check_verdict(plan: Plan, item: Configuration, printed: str, told: str) -> None:
    """Check that what was found of the model is what the plan does with it, and says."""
    verdict = plan.decisions[0].value.partition(":")[0]
    assert f"Start {verdict}: large 3d_fullres" in told
    used = "3d_fullres starts from large 3d_fullres" in printed
    assert used is (item.start is not None) is (verdict == "nominated")
    raced = "selfseg race small --ideas transfer" in printed
    assert raced is any(idea.name == "transfer" for idea in plan.nominated)
    assert raced is (verdict != "refused")


def _start_from_a_file(tmp_path: Path) -> None:
    shared = ("--workspace", tmp_path / "workspace", "--device", "cpu")
    file = tmp_path / "large.zip"
    done = selfseg("export", tmp_path / "workspace" / "large", "-o", file)
    assert done.returncode == 0, done.stderr
    nothing = ("--set", "configurations.3d_fullres.start=null", "--set", "nominated=[]")
    done = selfseg(
        "plan", "small", *shared, "--init", file, "--workers", "0", "--no-preprocess", *nothing
    )
    assert done.returncode == 0, done.stderr
    done = selfseg("train", "small", "3d_fullres", "1", *shared, *SHORT, "--init", file)
    assert done.returncode == 0, done.stderr
    assert "It is not known which images" in done.stderr
    done = selfseg("train", "small", "3d_fullres", "2", *shared, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "fold 2 starts from random weights: what the plan was made to fit is" in done.stderr


def test_what_is_given_without_a_model_is_refused(tmp_path: Path) -> None:
    done = selfseg("train", "x", "2d", "0", "--workspace", tmp_path, "--init-fold", "1")
    assert done.returncode == 2
    assert "Give it with --init MODEL" in done.stderr
