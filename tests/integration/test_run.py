"""`selfseg run` within its time, killed and gone on with; `selfseg status` along the way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from commandline import selfseg, write_tiny_dataset

from selfseg.execution.locks import held
from selfseg.records import serial
from selfseg.records.run import RunRecord
from selfseg.records.selection import Selection
from selfseg.workspace.dataset import DatasetFolder

pytestmark = pytest.mark.slow
LIMIT_S = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("run") / "data", train=6)


def test_run_trains_selects_and_keeps_its_time(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    done = selfseg("run", data, "--workspace", tmp_path, "--time", f"{LIMIT_S}s", "--device", "cpu")
    taken_s = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    folder = DatasetFolder(tmp_path / "tiny")
    record = serial.load(RunRecord, folder.run)
    assert record.finished
    # Start-up of the interpreter, of workers and of torch is a large share of so short a run.
    assert 0.6 * LIMIT_S <= taken_s <= 1.35 * LIMIT_S
    selection = serial.load(Selection, folder.selection)
    assert selection.members[0].configuration == record.schedule.trainings[0].configuration
    predicted = selfseg(
        "predict", "-i", data / "imagesTs", "-o", tmp_path / "out", "-m", folder.path
    )
    assert predicted.returncode == 0, predicted.stderr
    again = selfseg("status", "tiny", "--workspace", tmp_path, "--json")
    (status,) = json.loads(again.stdout)
    assert {fold["state"] for fold in status["folds"]} <= {"done", "missing"}
    assert "run finished" in status["summary"]


def test_killed_run_goes_on_within_its_time(data: Path, tmp_path: Path) -> None:
    command = ("run", data, "--workspace", tmp_path, "--time", f"{LIMIT_S}s", "--device", "cpu")
    killed = selfseg(*command, kill_after_s=0.6 * LIMIT_S)
    assert killed.returncode == -9
    folder = DatasetFolder(tmp_path / "tiny")
    before = serial.load(RunRecord, folder.run)
    assert not before.finished
    assert 0.2 * LIMIT_S < before.elapsed_s < 0.65 * LIMIT_S
    stopped = selfseg("status", "--workspace", tmp_path)
    assert "run stopped" in stopped.stdout
    started = time.monotonic()
    done = selfseg(*command)
    assert done.returncode == 0, done.stderr
    after = serial.load(RunRecord, folder.run)
    assert after.finished
    assert after.schedule == before.schedule
    assert time.monotonic() - started <= 1.35 * LIMIT_S - before.elapsed_s + 5
    assert "Going on after" in done.stderr


def test_status_tells_what_is_missing_running_and_done(data: Path, tmp_path: Path) -> None:
    shared = ("--workspace", tmp_path, "--device", "cpu")
    assert selfseg("plan", data, *shared).returncode == 0
    train = ("train", "tiny", "3d_fullres", "0", *shared, "--epochs", "1", "--steps-per-epoch", "2")
    assert selfseg(*train).returncode == 0
    folder = DatasetFolder(tmp_path / "tiny")
    with held(folder.fold("3d_fullres", "1").lock, "busy"):
        shown = selfseg("status", "tiny", "--workspace", tmp_path, "--json")
    (status,) = json.loads(shown.stdout)
    states = {(f["configuration"], f["fold"]): f for f in status["folds"]}
    assert states["3d_fullres", "0"]["state"] == "done"
    assert states["3d_fullres", "0"]["steps"] == 2
    assert states["3d_fullres", "0"]["dice"] is not None
    assert states["3d_fullres", "1"]["state"] == "running"
    assert states["2d", "0"]["state"] == "missing"
    assert status["summary"].startswith("1 of ")
    empty = selfseg("status", "--workspace", tmp_path / "nowhere")
    assert empty.returncode == 2
    assert "no planned data set" in empty.stderr
