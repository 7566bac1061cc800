"""Run `selfseg` with the given arguments in this process; then print its peak memory in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from selfseg.cli.main import main

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the most resident memory of this process since it started its program."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.write(f"\n{peak_bytes()}\n")
    raise SystemExit(code)
