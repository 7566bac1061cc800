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
from pathlib import Path

import psutil

EVERY_S = 0.05
SHARES_READING = 0.05  # of the time at most: the system walks the tables of all pages for it
SHARES = "smaps_rollup"  # in /proc/PID, on Linux
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
        peak_mib: Most memory of its processes together. A page that several share counts once:
            each has its share of it (PSS). Where the system does not tell, resident memory, in
            which it counts for each of them.
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


def cpu_seconds() -> float:
    """Return the processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reported(text: str) -> Reported | None:
    lines = [line for line in text.splitlines() if line.startswith(MARK)]
    return Reported(**json.loads(lines[-1].removeprefix(MARK))) if lines else None


class _Peak(threading.Thread):
    """Samples the memory of a process and all its children.

    Resident memory is cheap to ask for, and no less than what the shares come to. So these are read
    only where a new peak is possible, and not more often than `SHARES_READING` allows.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._next_s = 0.0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._over.wait(EVERY_S):
            self._sample()

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()

    def _sample(self) -> None:
        resident = self._resident()
        began_s = time.perf_counter()
        if sum(resident.values()) <= self.most or began_s < self._next_s:
            return
        self.most = max(self.most, sum(held_bytes(pid, rss) for pid, rss in resident.items()))
        now_s = time.perf_counter()
        self._next_s = now_s + (now_s - began_s) / SHARES_READING

    def _resident(self) -> dict[int, int]:
        """Return the resident bytes of every process by its id."""
        found: dict[int, int] = {}
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return found
        for process in processes:
            try:
                found[process.pid] = process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return found


def held_bytes(pid: int, resident: int) -> int:
    """Return a process's share of the memory that it uses; `resident` where it is not told."""
    try:
        lines = (Path("/proc") / str(pid) / SHARES).read_text().splitlines()
    except OSError:  # not on this system, not allowed, or it has just ended
        return resident
    kib = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return kib[0] * 1024 if kib else resident
