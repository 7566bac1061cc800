"""Functions for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from selfseg.errors import ImageError

BAD = 4


class Unreadable:
    """Raises where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_refuse, ())


def _refuse() -> None:
    raise RuntimeError("this answer cannot be read")


def late_square(number: int) -> int:
    """Let earlier items end later."""
    time.sleep(0.05 * max(0, 3 - number))
    return number * number


def add(number: int, *, more: int) -> int:
    return number + more


def process_and_threads(number: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def imported_and_threads(module: str) -> tuple[bool, str | None]:
    return module in sys.modules, os.environ.get("OMP_NUM_THREADS")


def user_mistake(number: int) -> int:
    if number == BAD:
        raise ImageError("scan.nii: damaged", remedy="Copy it again.")
    return number


def own_mistake(number: int) -> int:
    if number == BAD:
        raise KeyError("x")
    return number


def no_memory(path: Path) -> str:
    if path.stem == "b":
        raise MemoryError
    return path.stem


def dies(path: Path) -> str:
    if path.stem == "b":
        os._exit(3)
    time.sleep(0.5)  # that the death is noticed before the last item is begun
    return path.stem


def is_killed(path: Path) -> str:
    if path.stem == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return path.stem


def unreadable(number: int) -> Unreadable:
    return Unreadable()


def leave_a_sign(path: Path) -> None:
    """Write the number of the process, then take long."""
    path.write_text(str(os.getpid()))
    time.sleep(60)
