"""A request to end (SIGTERM: a scheduler preempts the job) that finds work to keep."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_TERMINATED = 128 + signal.SIGTERM


def end_when_asked() -> None:
    """Let SIGTERM end the program as an interruption does, with its cleaning up, by exit code 143.

    Else it ends at once and leaves files that were being written.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


@contextmanager
def termination_noted() -> Iterator[Callable[[], bool]]:
    """Only note SIGTERM; give a function that tells whether it came.

    If it came and the block ends well, the program ends then. Signals reach the main thread: in
    others nothing is ever noted.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGTERM, before)
    if noted:
        sys.exit(EXIT_TERMINATED)
