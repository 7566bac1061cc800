"""The file of results: written after each part, keeps what other runs found of other parts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfseg.files import arriving
from versus.circumstances import Circumstances


@dataclass(frozen=True)
class Result:
    """A part's medians; ratios say how many times better selfseg is."""

    part: str
    what: str
    unit: str
    rounds: int
    selfseg: float
    nnunet: float
    ratio: float
    bar: float
    selfseg_mib: float
    nnunet_mib: float
    memory_ratio: float
    memory_bar: float | None
    check: str

    @property
    def missed(self) -> tuple[str, ...]:
        """What is below its bar."""
        below: tuple[str, ...] = (self.part,) if self.ratio < self.bar else ()
        if self.memory_bar is not None and self.memory_ratio < self.memory_bar:
            below += (f"{self.part} (memory)",)
        return below


def keep(path: Path, result: Result, on: Circumstances) -> None:
    """Put a part's result into the file, in place of what it had on that part."""
    results = {item["part"]: item for item in known_results(path)}
    results[result.part] = asdict(result) | {"on": asdict(on)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with arriving(path) as temporary:
        temporary.write_text(json.dumps({"results": list(results.values())}, indent=1))


def known_results(path: Path) -> list[dict[str, Any]]:
    """Return what the file holds; nothing where there is none."""
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return found


def table(results: list[Result]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| part | selfseg | nnU-Net | ratio | promised | peak MiB | nnU-Net's | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item in results:
        lines.append(
            f"| {item.what} | {item.selfseg:.3g} {item.unit} | {item.nnunet:.3g} {item.unit} | "
            f"**{item.ratio:.1f} ×** | {item.bar:g} × | {item.selfseg_mib:.0f} | "
            f"{item.nnunet_mib:.0f} | {item.memory_ratio:.1f} × |"
        )
    return "\n".join(lines)
