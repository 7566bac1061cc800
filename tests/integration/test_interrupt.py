"""Ctrl-C: a short message, the exit code of an interrupt, and a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import TINY_NETWORK, selfseg, write_tiny_dataset

pytestmark = pytest.mark.slow


def test_an_interrupted_training_says_that_it_can_go_on(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data", train=4)
    shared = ["--workspace", str(tmp_path), "--device", "cpu"]
    assert selfseg("plan", data, *shared, *TINY_NETWORK).returncode == 0
    length = ["--epochs", "500", "--steps-per-epoch", "5"]
    program = subprocess.Popen(
        [sys.executable, "-m", "selfseg", "train", "tiny", "3d_fullres", "0", *shared, *length],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    history = tmp_path / "tiny" / "models" / "3d_fullres" / "fold_0" / "history.jsonl"
    deadline = time.monotonic() + 60
    while not history.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(program.pid, signal.SIGINT)  # as Ctrl-C does: everyone gets it
    _, error = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Interrupted; the same command goes on where it stopped." in error
    assert "Traceback" not in error
