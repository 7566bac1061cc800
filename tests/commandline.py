"""Run the `selfseg` command as a user does, on tiny data."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from selfseg import phantoms

# A network that trains in milliseconds a step; the patch is the planner's.
TINY_NETWORK = (
    "--set", "configurations.3d_fullres.network.features=[4,8,16]",
    "--set", "configurations.2d.network.features=[4,8,16]",
)  # fmt: skip
TINY_SHAPE, TINY_SPACING_MM = (12, 24, 24), (4.0, 3.0, 3.0)


def write_tiny_dataset(
    root: Path, *, train: int = 5, test: int = 2, name: str = "tiny", seed: int = 3
) -> Path:
    """Write a data set whose commands take seconds; return its folder."""
    phantoms.write_dataset(
        root,
        name=name,
        train=train,
        test=test,
        seed=seed,
        shape=TINY_SHAPE,
        spacing_mm=TINY_SPACING_MM,
    )
    return root


# The command, in a process that is to keep a checkpoint of a training before every step.
SAVING = (
    "-c",
    "from selfseg.cli.main import main; from selfseg.training import saving; "
    "saving.CHECKPOINT_EVERY_S, saving.LARGEST_SHARE = 0.0, 1e9; raise SystemExit(main())",
)


def selfseg(
    *arguments: str | Path,
    kill_after_s: float | None = None,
    limit_s: float = 300,
    start: tuple[str, str] = ("-m", "selfseg"),
) -> subprocess.CompletedProcess[str]:
    """Run `selfseg …`; with `kill_after_s` the whole process group gets SIGKILL after that time."""
    environment = {**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "default"}
    process = subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    try:
        out, error = process.communicate(timeout=kill_after_s or limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, error = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)
