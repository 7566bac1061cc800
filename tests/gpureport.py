"""What the benchmark on a GPU reports: rows, what was skipped and why, in a file that grows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from selfseg.files import arriving

TOLD = 2000  # characters of an error, from its end

T = TypeVar("T")


@dataclass
class Row:
    """One measurement; None where it does not apply, or was not made (yet).

    Attributes:
        what, network: What was measured.
        ms_per_step: Median over the rounds.
        rounds: How often it had its turn.
        layout: Memory format; the first row of ours has the one that training chose.
        busy_share, waited_share: Of the time: the device computes; a batch is waited for.
        tiles_per_s: Windows predicted a second.
        peak_gib: Most device memory in a step.
        scoring_s, checkpoint_s: The end of an epoch.
    """

    what: str
    network: str
    ms_per_step: float | None = None
    rounds: int = 0
    layout: str | None = None
    busy_share: float | None = None
    waited_share: float | None = None
    tiles_per_s: float | None = None
    peak_gib: float | None = None
    scoring_s: float | None = None
    checkpoint_s: float | None = None


@dataclass
class Report:
    """What was found and what was not, in a file that is whole at any time.

    Attributes:
        path: The file.
        device, name: What is measured; the name is asked for while the device still answers.
        limit_s: Time for all that is to come until it is set anew.
        rows, skipped: What the file tells.
        has_failed: Whether anything was skipped for another reason than time.
    """

    path: Path
    device: torch.device
    limit_s: float
    began_s: float = field(default_factory=time.perf_counter)
    name: str = "cpu"
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    has_failed: bool = False

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            self.name = torch.cuda.get_device_name(self.device)

    @property
    def elapsed_s(self) -> float:
        """Time since the beginning."""
        return time.perf_counter() - self.began_s

    def say(self, text: str) -> None:
        """Print a line with the time that has passed."""
        sys.stdout.write(f"{self.elapsed_s:5.0f} s  {text}\n")
        sys.stdout.flush()

    def suffices(self, what: str, needed_s: float) -> bool:
        """Return whether there is time for something; note it as skipped if not."""
        if self.elapsed_s + needed_s <= self.limit_s:
            self.say(what)
            return True
        left_s = max(self.limit_s - self.elapsed_s, 0.0)
        self._skip(f"{what}: about {needed_s:.0f} s needed, {left_s:.0f} s left")
        return False

    def tried(self, what: str, needed_s: float, make: Callable[[], T]) -> T | None:
        """Return what is made; None if there is no time for it or it fails, which is noted."""
        return self.guarded(what, make) if self.suffices(what, needed_s) else None

    def guarded(self, what: str, make: Callable[[], T]) -> T | None:
        """Return what is made; None if it fails, which is noted: the rest is worth having."""
        try:
            return make()
        except Exception as error:  # it may fail in any way, a compiler's for one
            text = f"{what}: {type(error).__name__}: {str(error)[-TOLD:]}"
        self.has_failed = True
        self._skip(text)
        return None

    def _skip(self, text: str) -> None:
        self.skipped.append(text)
        self.say(f"skipped {text}")
        self.write()

    def write(self) -> None:
        """Write what was found so far."""
        found = {
            "device": self.name,
            "torch": torch.__version__,
            "elapsed_s": self.elapsed_s,
            "skipped": self.skipped,
            "rows": [asdict(row) for row in self.rows if row.rounds],
        }
        with arriving(self.path) as temporary:
            temporary.write_text(json.dumps(found, indent=1))
