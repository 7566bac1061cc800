"""selfseg against nnU-Net, part by part: both sides in turn, medians, ratios, JSON and a table.

`make bench` runs it in an environment of its own that holds both, on the same torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from versus.measure import Measured, measure
from versus.parts import PARTS, SIDES, Part, Place, UnavailableError

LESS_IS_BETTER = ("s", "s/case")
PACKAGES = ("selfseg", "nnunetv2", "torch", "batchgeneratorsv2", "numpy", "scipy")


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


def compare(part: Part, place: Place) -> Result:
    """Run both sides in turn and compare the medians.

    Raises:
        UnavailableError: The part's data are not here.
        RuntimeError: A side failed, or they did not do the same work.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    part.prepare(place)
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for number in range(part.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            command = part.command(place, side)
            found = measure(command.words, command.env)
            runs[side].append(found)
            _say(f"  {side}: {_figure(found):.4g} {part.unit}, {found.peak_mib:.0f} MiB")
    checks = {_check(found) for found in (*runs["selfseg"], *runs["nnunet"])}
    if len(checks) > 1:
        raise RuntimeError(f"{part.name}: the sides did not do the same: {sorted(checks)}")
    ours, theirs = (statistics.median(map(_figure, runs[side])) for side in SIDES)
    held, held_theirs = (statistics.median(map(_memory, runs[side])) for side in SIDES)
    return Result(
        part=part.name,
        what=part.what,
        unit=part.unit,
        rounds=part.rounds,
        selfseg=ours,
        nnunet=theirs,
        ratio=theirs / ours if part.unit in LESS_IS_BETTER else ours / theirs,
        bar=part.bar,
        selfseg_mib=held,
        nnunet_mib=held_theirs,
        memory_ratio=held_theirs / held,
        memory_bar=part.memory_bar,
        check=checks.pop(),
    )


def _figure(found: Measured) -> float:
    return found.seconds if found.reported is None else found.reported.figure


def _memory(found: Measured) -> float:
    extra = None if found.reported is None else found.reported.extra_mib
    return found.peak_mib if extra is None else extra


def _check(found: Measured) -> str:
    return "" if found.reported is None else found.reported.check


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


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the parts that were asked for; 1 if one failed or missed what it promises."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*names, []], help="default: all")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where to work")
    parser.add_argument("--out", type=Path, default=Path("bench/results.json"))
    options = parser.parse_args()
    results, failed = [], False
    for part in PARTS:
        if options.parts and part.name not in options.parts:
            continue
        _say(f"{part.name}: {part.what}")
        place = Place(options.folder.resolve() / part.name, options.data and options.data.resolve())
        try:
            results.append(compare(part, place))
        except UnavailableError as reason:
            _say(f"  skipped: {reason}")
        except RuntimeError as error:
            _say(f"  failed: {error}")
            failed = True
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    versions = {name: version(name) for name in PACKAGES}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"on": machine, "versions": versions, "results": [asdict(item) for item in results]}
    options.out.write_text(json.dumps(content, indent=1))
    _say(f"\n{table(results)}\n")
    missed = [item.part for item in results if item.ratio < item.bar]
    missed += [
        f"{item.part} (memory)"
        for item in results
        if item.memory_bar is not None and item.memory_ratio < item.memory_bar
    ]
    if missed:
        _say(f"below what is promised: {', '.join(missed)}")
    return int(failed or bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
