"""Run a command to its end; measure its seconds and the most memory it and its children held."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import psutil

EVERY_S = 0.05
MIB = 2**20
MARK = "reported: "


@dataclass(frozen=True)
class Reported:
    """What a measured command knows better than its observer.

    Attributes:
        figure: What it is judged by, in the unit of its part.
        extra_mib: Memory that the work took beyond what was there before; None: not asked.
        check: Has to be the same on both sides, so that both did the same work.
    """

    figure: float
    extra_mib: float | None = None
    check: str = ""


@dataclass(frozen=True)
class Measured:
    """What a command cost.

    Attributes:
        seconds: Wall time.
        peak_mib: Most resident memory of its processes together, pages that are shared by several
            counted once for each (as users see them in a process list).
        reported: What the command found out itself, if it did: see `report`.
    """

    seconds: float
    peak_mib: float
    reported: Reported | None


def measure(command: Sequence[str], env: Mapping[str, str]) -> Measured:
    """Run a command; its output is shown only if it fails.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        peak = _Peak(process.pid)
        peak.start()
        code = process.wait()
        seconds = time.perf_counter() - started_s
        peak.stop()
        output.seek(0)
        text = output.read()
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{text[-4000:]}")
    return Measured(seconds, peak.most / MIB, _reported(text))


def report(found: Reported) -> None:
    """Print what was found, for the observer."""
    sys.stdout.write(f"\n{MARK}{json.dumps(asdict(found))}\n")


def peak_mib() -> float:
    """Return the most resident memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_seconds() -> float:
    """Return the processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reported(text: str) -> Reported | None:
    lines = [line for line in text.splitlines() if line.startswith(MARK)]
    return Reported(**json.loads(lines[-1].removeprefix(MARK))) if lines else None


class _Peak(threading.Thread):
    """Samples the resident memory of a process and all its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._root = psutil.Process(pid)
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._over.wait(EVERY_S):
            self.most = max(self.most, self._held())

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()

    def _held(self) -> int:
        total = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total
