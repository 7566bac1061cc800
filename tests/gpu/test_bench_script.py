"""The GPU benchmark runs at toy size on any machine, so that it is ready where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bench.py")


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["skipped"] == []
    rows = found["rows"]
    ours = [row for row in rows if row["what"].startswith("selfseg")]
    assert [row["network"] for row in ours] == ["plain", "ResEnc-L"]
    assert all(row["ms_per_step"] > 0 and row["tiles_per_s"] > 0 for row in ours)


@pytest.mark.slow
def test_what_there_is_no_time_for_is_told(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--limit-s", "0", "--out", str(out)]
    subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(out.read_text())
    assert found["rows"] == []
    assert [line.split(":")[0] for line in found["skipped"]] == ["plain", "ResEnc-L"]
