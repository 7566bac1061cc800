"""Locks: who holds one, who waits for one, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from selfseg.errors import DeviceError
from selfseg.execution import locks
from selfseg.execution.locks import held, is_held, waited_for

Taker = Callable[[Path, str], AbstractContextManager[None]]
TAKERS: tuple[Taker, ...] = (held, waited_for)


def taken_for(seconds: float, path: Path) -> threading.Thread:
    """Take a lock as another process would, for some time; it is taken when this returns."""
    taken = threading.Event()

    def take() -> None:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            taken.set()
            time.sleep(seconds)

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait()
    return thread


def test_who_holds_a_lock_is_told_apart_from_who_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fold" / ".lock"
    assert not is_held(path)
    with held(path, "is trained"):
        assert is_held(path)
        monkeypatch.setattr(locks, "PASSING_S", 0.1)
        with (
            pytest.raises(DeviceError, match="is trained by another process"),
            held(path, "is trained"),
        ):
            pass
    assert not is_held(path)
    monkeypatch.undo()
    looking = taken_for(0.3, path)  # `status` takes it for an instant
    with held(path, "is trained"):
        assert is_held(path)
    looking.join()


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_nothing_is_known_of_a_lock_that_may_not_be_opened(
    number: int, take: Taker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    path.touch()
    opened = os.open

    def refuse(name: str, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number), name)
        return opened(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    assert not is_held(path)
    with pytest.raises(OSError, match=os.strerror(number)), take(path, "is trained"):
        pass


def test_a_wait_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "PASSING_S", 0.05)
    monkeypatch.setattr(locks, "TELL_EVERY_S", 0.2)
    path = tmp_path / ".arrays.lock"
    with caplog.at_level(logging.INFO), waited_for(path, "prepares these arrays"):
        assert not caplog.messages
    other = taken_for(0.6, path)
    with caplog.at_level(logging.INFO), waited_for(path, "prepares these arrays"):
        other.join()
    told = f"Waiting for another process that prepares these arrays (lock {path})"
    assert 2 <= caplog.messages.count(told) <= 4


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(
    number: int, take: Taker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no file takes the place of the lock: it would outlive a killed process."""
    path = tmp_path / ".lock"
    path.touch()

    def missing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    assert not is_held(path)
    with pytest.raises(DeviceError, match="knows no locks") as caught, take(path, "is trained"):
        pass
    assert "--workspace" in caught.value.remedy
