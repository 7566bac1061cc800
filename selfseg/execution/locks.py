"""Locks between processes: a folder is written by one process at a time.

The system lets go of a lock when its process ends, however it ends. A file that marks a lock by
being there would not: after a kill its folder would stay locked. So no such file takes its place.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from selfseg.errors import DeviceError

log = logging.getLogger(__name__)

PASSING_S = 2.0  # who only looks whether a lock is held has it for an instant
TELL_EVERY_S = 300.0
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def held(path: Path, finding: str) -> Iterator[None]:
    """Hold a lock, or refuse after two seconds.

    Args:
        path: File of the lock; its folder is made.
        finding: What it means that another process holds it.

    Raises:
        DeviceError: Another process holds it; the file system knows no locks.
    """
    lock = _lock(path)
    if not _acquired(lock, PASSING_S):
        raise DeviceError(
            f"{path.parent}: {finding} by another process",
            remedy="Wait for it to end, or stop it.",
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_for(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock as soon as no other process does; a wait is told, every five minutes again.

    Args:
        path: File of the lock; its folder is made.
        doing: What a process does that holds it: `prepares the training arrays`.

    Raises:
        DeviceError: The file system knows no locks.
    """
    lock = _lock(path)
    for attempt in count():
        if _acquired(lock, TELL_EVERY_S if attempt else PASSING_S):
            break
        log.info("Waiting for another process that %s (lock %s)", doing, path)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Tell whether a process is known to hold a lock now.

    Where the lock may not be opened (a workspace that can only be read) nothing is known of it.
    """
    if not path.exists():
        return False
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, *CANNOT_LOCK):
            return False
        raise
    lock.release()
    return False


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path, fallback_to_soft=False)


def _acquired(lock: BaseFileLock, timeout_s: float) -> bool:
    """Take a lock, waiting so long; tell whether it was taken.

    Raises:
        DeviceError: The file system knows no locks.
    """
    path = Path(lock.lock_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        raise DeviceError(
            f"{path}: the file system of {_mount(path)} knows no locks ({error.strerror})",
            remedy="Use another --workspace, on a disk with locks, or have it mounted with them "
            "(Lustre: option flock; NFS: its lock service must run).",
        ) from error
    return True


def _mount(path: Path) -> Path:
    """Return where the file system of a path is mounted."""
    return next(folder for folder in path.resolve().parents if folder.is_mount())
