"""Where the real data sets are; tests that need them skip with a reason when they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def data_root(name: str) -> Path:
    """Return the folder of a real data set, or skip the calling test."""
    root = Path(os.environ.get("SELFSEG_TEST_DATA") or PROJECT.parent / "shared" / "data")
    folder = root / name
    if not folder.exists():
        pytest.skip(f"no real data: {folder} (set SELFSEG_TEST_DATA)")
    return folder
