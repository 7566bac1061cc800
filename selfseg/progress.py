"""Progress of long work: a bar with ETA on a terminal, plain lines elsewhere, silent if told so."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_EVERY_S = 15.0


class ProgressBar:
    """Counts `total` items on stderr; `advance` may carry a short note (loss, case name).

    Use as a context manager. On a terminal it draws a bar; elsewhere it prints a line at most
    every 15 seconds and one at the end. `start` items were done before: they do not count for the
    speed. `as_share` shows percent in place of items that are only parts of a whole.
    """

    def __init__(self, label: str, total: int, *, start: int = 0, as_share: bool = False) -> None:
        self._label = label
        self._total = total
        self._start = start
        self._as_share = as_share
        self._done = start
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn("{task.percentage:.1f} %") if as_share else MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._line(f"done in {time.monotonic() - self._started:.0f} s")

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Count finished items."""
        self._done += count
        if self._bar:
            self._bar.update(self._task, completed=self._done, total=self._total, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = now
            pace_s = (now - self._started) / max(self._done - self._start, 1)
            left_s = pace_s * (self._total - self._done)
            self._line(f"{note}{', ' if note else ''}about {duration_text(left_s)} left")

    def move_to(self, done: int, *, note: str = "") -> None:
        """Set how much is done."""
        self.advance(done - self._done, note=note)

    def _line(self, text: str) -> None:
        done = f"{self._done}/{self._total}"
        if self._as_share:
            done = f"{100 * self._done / self._total:.1f} %"
        sys.stderr.write(f"{self._label}: {done}, {text}\n")
        sys.stderr.flush()


def duration_text(seconds: float) -> str:
    """Return a duration as one reads it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
