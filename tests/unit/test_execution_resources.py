"""Cores and memory: limits of control groups, versions 1 and 2, whole and nested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from selfseg.execution.resources import free_memory_gib, usable_cores

GIB = 2**30
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "cgroup", tmp_path / "membership"


def test_without_limits_the_machine_counts(groups: tuple[Path, Path]) -> None:
    assert usable_cores(*groups) == CORES
    free = psutil.virtual_memory().available / GIB
    assert free_memory_gib(*groups) == pytest.approx(free, rel=0.3)


def test_version_2(groups: tuple[Path, Path]) -> None:
    root, membership = groups
    membership.write_text("0::/outer/inner\n")
    write(root, {"outer/cpu.max": "100000 100000", "outer/inner/cpu.max": "max 100000"})
    assert usable_cores(*groups) == 1
    limits = {
        "outer/inner/memory.max": "max",
        "outer/memory.max": str(GIB // 4),
        "outer/memory.current": str(GIB // 8),
        "outer/memory.stat": f"anon 5\ninactive_file {GIB // 16}",
    }
    write(root, limits)
    assert free_memory_gib(*groups) == pytest.approx(1 / 4 - 1 / 8 + 1 / 16)


def test_version_1(groups: tuple[Path, Path]) -> None:
    root, membership = groups
    membership.write_text("5:memory:/box\n4:cpu,cpuacct:/box\n")
    quota = {
        "cpu,cpuacct/box/cpu.cfs_quota_us": "150000",
        "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
    }
    write(root, quota)
    assert usable_cores(*groups) == 1
    limits = {
        "memory/box/memory.limit_in_bytes": str(GIB // 4),
        "memory/box/memory.usage_in_bytes": str(GIB // 2),
    }
    write(root, limits)
    assert free_memory_gib(*groups) == 0


def test_no_quota_and_odd_files_are_no_limit(groups: tuple[Path, Path]) -> None:
    root, membership = groups
    membership.write_text("4:cpu:/box\n0::/\n")
    write(root, {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"})
    write(root, {"cpu.max": "", "memory.max": "many"})
    assert usable_cores(*groups) == CORES
    assert free_memory_gib(*groups) > 0


KEPT = """
import numpy as np
from selfseg.execution.resources import Freed, free_memory_gib, handle_freed_memory
handle_freed_memory(Freed.KEPT)
before = free_memory_gib()
array = np.ones(2**30 // 8)
held = before - free_memory_gib()
del array
print(held, before - free_memory_gib())
"""


def test_freed_memory_that_is_kept_counts_as_free() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    held, kept = map(float, done.stdout.split())
    assert held > 0.8
    assert kept < 0.5  # other programs take some
