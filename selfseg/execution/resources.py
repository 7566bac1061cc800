"""Cores and memory that this process may use: affinity, control groups, what is free."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# malloc.h: M_TRIM_THRESHOLD (-1: never), M_MMAP_THRESHOLD (setting it ends its growth to 32 MiB),
# M_MMAP_MAX and M_ARENA_MAX.
TRIM_ABOVE, MAP_ABOVE, MAPS, ARENAS = -1, -3, -4, -8


class Freed(Enum):
    """What becomes of memory that arrays give back to the C library (Linux with glibc).

    Attributes:
        RETURNED: It goes back to the system at once. Else pieces stay in every thread's own arena,
            and a process holds more than it uses.
        USUAL: What glibc comes to by itself: arrays of more than 32 MiB go back.
        KEPT: All of it waits for the next array. A page that came from the system must be cleared
            before a layer may have it, which is up to 45 % of the time of a small network. What
            is held grows by gaps: a tenth in prediction, up to 0.4 in training.
    """

    RETURNED = ((TRIM_ABOVE, 1 << 20), (MAP_ABOVE, 1 << 20), (MAPS, 1 << 16), (ARENAS, 2))
    USUAL = ((TRIM_ABOVE, 1 << 26), (MAP_ABOVE, 1 << 25), (MAPS, 1 << 16), (ARENAS, 0))
    KEPT = ((TRIM_ABOVE, -1), (MAPS, 0), (ARENAS, 0))


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores that the scheduler grants: affinity, and the quota of containers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [cores or 1, *(int(quota) for quota in _quotas(cgroups, membership))]
    return max(1, min(quotas))


def free_memory_gib(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Return the memory that can still be taken: of the machine, and of this container's share.

    What this process has freed and kept goes back first, as it can be taken.
    """
    import psutil

    if (library := _glibc()) is not None:
        library.malloc_trim(0)
    free = [float(psutil.virtual_memory().available), *_free_shares(cgroups, membership)]
    return max(min(free), 0.0) / 2**30


def machine_memory_gib() -> float:
    """Return the main memory of the machine, whoever holds it."""
    import psutil

    return float(psutil.virtual_memory().total) / 2**30


def held_gib() -> float:
    """Return the main memory that this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30


def handle_freed_memory(how: Freed) -> None:
    """Say what becomes of freed memory from here on; what was kept goes back, unless it is kept."""
    if (library := _glibc()) is not None:
        for option, value in how.value:
            library.mallopt(option, value)
        if how is not Freed.KEPT:
            library.malloc_trim(0)


@contextmanager
def usual_afterwards() -> Iterator[None]:
    """Handle freed memory as usual at the end, however it was handled in the meantime."""
    try:
        yield
    finally:
        handle_freed_memory(Freed.USUAL)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") else None


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
