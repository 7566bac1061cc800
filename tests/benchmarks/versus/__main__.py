"""selfseg against nnU-Net, part by part: both sides in turn, medians, ratios, JSON and a table.

`make bench` runs it in an environment of its own that holds both, on the same torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from versus.circumstances import find_circumstances
from versus.measure import Measured, measure
from versus.parts import PARTS, SIDES, Part, Place, UnavailableError
from versus.results import Result, keep, known_results, table

LESS_IS_BETTER = ("s", "s/case")


def compare(part: Part, place: Place) -> Result:
    """Run both sides in turn and compare the medians.

    Raises:
        UnavailableError: The part's data are not here.
        RuntimeError: A side failed, or they did not do the same work.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    part.prepare(place)
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    checks: set[str] = set()
    for number in range(part.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            command = part.command(place, side)
            found = measure(command.words, command.env)
            runs[side].append(found)
            checks.add(_check(found) if part.check is None else part.check(place, side))
            _say(f"  {side}: {_figure(found):.4g} {part.unit}, {found.peak_mib:.0f} MiB")
    if len(checks) > 1 or "" in checks:
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


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; 1 if one failed or missed what it promises."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*names, []], help="default: all")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where to work")
    parser.add_argument("--out", type=Path, default=Path("bench/results.json"))
    options = parser.parse_args(arguments)
    known_results(options.out)  # a file that cannot be read is told now, not after an hour
    results: list[Result] = []
    failed: list[str] = []
    for part in PARTS:
        if options.parts and part.name not in options.parts:
            continue
        _say(f"{part.name}: {part.what}")
        place = Place(options.folder.resolve() / part.name, options.data and options.data.resolve())
        try:
            on = find_circumstances()
            results.append(compare(part, place))
            keep(options.out, results[-1], on)
        except UnavailableError as reason:
            _say(f"  skipped: {reason}")
        except Exception as error:  # whatever it is, the other parts are worth having
            _say(f"  failed: {type(error).__name__}: {error}")
            failed.append(part.name)
    _say(f"\n{table(results)}\n")
    missed = [name for item in results for name in item.missed]
    if missed:
        _say(f"below what is promised: {', '.join(missed)}")
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return int(bool(failed or missed))


if __name__ == "__main__":
    raise SystemExit(main())
