"""Ctrl-C and SIGTERM: a short message, an exit code of its own, and a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import TINY_NETWORK, selfseg, write_tiny_dataset

from selfseg.training.checkpoints import peek
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.network import FoldFolder

pytestmark = pytest.mark.slow


LENGTH = ("--epochs", "30", "--steps-per-epoch", "5")


def train_until(signal_number: int, tmp_path: Path) -> tuple[int, str, FoldFolder, list[str]]:
    """Plan and train, and send everyone a signal after the first epoch; return how it ended."""
    data = write_tiny_dataset(tmp_path / "data", train=4)
    shared = ["--workspace", str(tmp_path), "--device", "cpu"]
    assert selfseg("plan", data, *shared, *TINY_NETWORK).returncode == 0
    command = ["train", "tiny", "3d_fullres", "0", *shared, *LENGTH]
    program = subprocess.Popen(
        [sys.executable, "-m", "selfseg", *command],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    files = DatasetFolder(tmp_path / "tiny").fold("3d_fullres", "0")
    deadline = time.monotonic() + 120
    while not files.history.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(program.pid, signal_number)  # as a terminal and a scheduler do: everyone gets it
    _, error = program.communicate(timeout=60)
    assert "Interrupted; the same command goes on where it stopped." in error
    assert "Traceback" not in error
    return program.returncode, error, files, command


def test_an_interrupted_training_says_that_it_can_go_on(tmp_path: Path) -> None:
    code, *_ = train_until(signal.SIGINT, tmp_path)
    assert code == 130


def test_a_preempted_training_goes_on_after_its_last_step(tmp_path: Path) -> None:
    code, error, files, command = train_until(signal.SIGTERM, tmp_path)
    assert code == 143
    position = peek(files)
    assert position is not None
    assert f"Asked to end: kept as it is after step {position.step}\n" in error
    again = selfseg(*command)
    assert again.returncode == 0, again.stderr
    assert f"Resuming after epoch {position.epoch}, step {position.step}\n" in again.stderr
    assert files.weights.is_file()
