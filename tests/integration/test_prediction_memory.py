"""Peak memory of prediction, from outside: many labels need no room for all at once."""

from __future__ import annotations

import subprocess
import sys
from math import prod
from pathlib import Path

import predictionmemory
import pytest

pytestmark = pytest.mark.slow

FEW, MANY = 3, 150


def peak_bytes(labels: int, members: int, folder: Path) -> int:
    program = Path(predictionmemory.__file__)
    command = [sys.executable, str(program), str(labels), str(members), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("members", [1, 2])
def test_peak_memory_grows_by_windows_not_by_images(tmp_path: Path, members: int) -> None:
    few = peak_bytes(FEW, members, tmp_path / "few")
    many = peak_bytes(MANY, members, tmp_path / "many")
    # A window's outputs and their copies are some 60 MiB; logits of the image are 440 MiB, and two
    # images and a sum of probabilities are at work at once.
    image = (MANY - FEW) * prod(predictionmemory.SHAPE) * 4  # float32
    assert many - few < image / 3, f"{(many - few) / 2**20:.0f} MiB more"
