"""Cores and memory that this process may use: affinity, control groups, what is free."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (setting it ends its growth) and M_ARENA_MAX.
ALLOCATOR_OPTIONS = ((-1, 1 << 20), (-3, 1 << 20), (-8, 2))


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores that the scheduler grants: affinity, and the quota of containers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [cores or 1, *(int(quota) for quota in _quotas(cgroups, membership))]
    return max(1, min(quotas))


def free_memory_gib(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Return the memory that can still be taken: of the machine, and of this container's share."""
    import psutil

    free = [float(psutil.virtual_memory().available), *_free_shares(cgroups, membership)]
    return max(min(free), 0.0) / 2**30


def held_gib() -> float:
    """Return the main memory that this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30


def return_freed_memory() -> None:
    """Let large arrays go back to the system as soon as they are freed (Linux with glibc).

    Else the allocator keeps up to 32 MiB of each for what comes next, and pieces of it in every
    thread's own arena; a process then holds more than it uses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ALLOCATOR_OPTIONS:
            mallopt(option, value)


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Yield the limits on processor time, in cores (version 2, then version 1)."""
    for folder in _groups(cgroups, membership, ""):
        quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for folder in _groups(cgroups, membership, "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # -1 is no limit
            yield int(quota) / int(period)


def _free_shares(cgroups: Path, membership: Path) -> Iterator[float]:
    """Yield what each limit on memory leaves, in bytes; cached files count as free."""
    versions = (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for controller, limit_file, usage_file, cached_name in versions:
        for folder in _groups(cgroups, membership, controller):
            limit, usage = _read(folder / limit_file), _read(folder / usage_file)
            if limit.isdigit() and usage.isdigit():
                rows = (line.split() for line in _read(folder / "memory.stat").splitlines())
                cached = next((int(row[1]) for row in rows if row[0] == cached_name), 0)
                yield float(int(limit) - int(usage) + cached)


def _groups(cgroups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield this process's control group and those around it; "" is version 2."""
    for line in _read(membership).splitlines():
        _, controllers, name = line.split(":", 2)
        if controller not in controllers.split(",") or (not controller and controllers):
            continue
        root = next(
            (
                root
                for root in (cgroups / controllers, cgroups / controller, cgroups / "unified")
                if root.is_dir()
            ),
            cgroups,
        )
        own = root / name.lstrip("/")
        for folder in (own, *own.parents):
            yield folder  # a container may not see its own name, but its limits stand at the root
            if folder == root:
                return


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
