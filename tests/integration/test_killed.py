"""Killed at any moment, the same command again finishes, with the same weights."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from commandline import SAVING, TINY_NETWORK, selfseg, write_tiny_dataset

pytestmark = pytest.mark.slow

# Twenty kills: moments are random in the time that the command takes when left alone.
KILLS = {"plan": 6, "train": 8, "predict": 6}
PLAIN = ("-m", "selfseg")
STARTS = {"plan": PLAIN, "train": SAVING, "predict": PLAIN}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("killed") / "data", test=4)


def commands(data: Path, workspace: Path) -> dict[str, list[str]]:
    """Return the three commands of the main job on one workspace."""
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    length = ["--epochs", "6", "--steps-per-epoch", "12", "--seed", "7"]
    source, output = str(data / "imagesTs"), str(workspace / "out")
    return {
        "plan": ["plan", str(data), *shared, *TINY_NETWORK],
        "train": ["train", "tiny", "3d_fullres", "0", *shared, *length],
        "predict": ["predict", "-i", source, "-o", output, *shared],
    }


def test_killed_runs_finish_with_equal_weights(data: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    moments = random.Random(2024)
    durations: dict[str, float] = {}
    for name, command in commands(data, undisturbed).items():
        started = time.monotonic()
        done = selfseg(*command, start=STARTS[name])
        durations[name] = time.monotonic() - started
        assert done.returncode == 0, done.stderr
    made = {"plan": "tiny", "train": "tiny/models", "predict": "out"}
    for name, command in commands(data, disturbed).items():
        killed, attempts = 0, 0
        while killed < KILLS[name]:
            attempts += 1
            assert attempts <= 4 * KILLS[name], f"{name} is hardly ever caught at work"
            after_s = moments.uniform(0.1, 0.9) * durations[name]
            started = time.monotonic()
            if selfseg(*command, start=STARTS[name], kill_after_s=after_s).returncode == -9:
                killed += 1
            else:  # it had finished: begin again, so that the next kill meets work
                durations[name] = min(durations[name], time.monotonic() - started)
                shutil.rmtree(disturbed / made[name])
        done = selfseg(*command, start=STARTS[name])
        assert done.returncode == 0, done.stderr
    fold = Path("tiny/models/3d_fullres/fold_0/weights.safetensors")
    assert (disturbed / fold).read_bytes() == (undisturbed / fold).read_bytes()
    for path in sorted((undisturbed / "out").glob("*.nii.gz")):
        assert (disturbed / "out" / path.name).read_bytes() == path.read_bytes()
    leftovers = [
        p.name for p in disturbed.rglob("*") if p.suffix == ".json" and p.stat().st_size == 0
    ]
    assert not leftovers
