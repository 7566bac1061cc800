"""Locks between processes: a folder is written by one process at a time.

The system lets go of a lock when its process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selfseg.errors import DeviceError


@contextmanager
def held(path: Path, finding: str) -> Iterator[None]:
    """Hold a lock, or refuse at once.

    Args:
        path: File of the lock; its folder is made.
        finding: What it means that another process holds it.

    Raises:
        DeviceError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeviceError(
            f"{path.parent}: {finding} by another process",
            remedy="Wait for it to end, or stop it.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a lock as soon as no other process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
