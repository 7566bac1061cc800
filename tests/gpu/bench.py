"""Speed on a GPU in one run of a few minutes: training steps, busy share, tiles; JSON out.

`python tests/gpu/bench.py --out results.json`, where selfseg may be installed or not:
docs/benchmarks.md lists the packages. Where nnU-Net is installed its network and loss run in turn
with ours, compiled and eager, on data that already lie on the device (their best case); ours loads
and augments, and once more cuts patches of cases that lie there. `--toy` shrinks everything, for
machines without a GPU. The file is written after each measurement; what `--limit-s` leaves no time
for, or what fails, stands there as skipped.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # nothing here needs the planners, which it lacks
from gpumeasures import (  # noqa: E402
    busy_and_waited,
    epoch_end,
    peak_gib,
    seconds_a_step,
    tiles_per_second,
)
from gpureport import Report, Row  # noqa: E402
from gpusteps import TOY, Ours, Size, Theirs, networks  # noqa: E402

from selfseg.loading.batches import default_loader_workers  # noqa: E402
from selfseg.networks.device import select_device  # noqa: E402
from selfseg.records.network import Network  # noqa: E402

OURS, HELD = "selfseg, loading and augmenting", "selfseg, data on the device"
THEIRS = "nnU-Net's network and loss"
ROUNDS = 3
LIMIT_S = 450.0
CAUTION = 1.5  # what is predicted from one step of ours may take longer

Step = Callable[[], None]
S = TypeVar("S", bound=Step)


def in_turn(steppers: Sequence[tuple[Row, Step]], size: Size, report: Report) -> None:
    """Fill in the milliseconds of a step, the median of rounds in which each has its turn.

    One that fails is left out from then on.
    """
    times: dict[str, list[float]] = {row.what: [] for row, _ in steppers}
    needed_s = 0.0
    for number in range(1, ROUNDS + 1):
        about = f"steps, round {number} of {ROUNDS}"
        if number > 1 and not report.suffices(f"{steppers[0][0].network}: {about}", needed_s):
            return  # what was begun gets one round
        began_s = report.elapsed_s
        for row, step in steppers:
            if len(times[row.what]) < number - 1:
                continue
            timed = partial(seconds_a_step, step, size.steps, report.device)
            taken_s = report.guarded(f"{row.network}: {row.what}, {about}", timed)
            if taken_s is not None:
                times[row.what].append(1e3 * taken_s)
                row.ms_per_step = statistics.median(times[row.what])
                row.rounds = number
                report.write()
        needed_s = report.elapsed_s - began_s


def has_nnunet() -> bool:
    """Tell whether nnU-Net's network and loss can be imported."""
    try:
        import dynamic_network_architectures  # noqa: F401
        import nnunetv2  # noqa: F401
    except ImportError:
        return False
    return True


def add_held(
    ours: Ours, row: Row, a_step_s: float, size: Size, report: Report
) -> list[tuple[Row, Step]]:
    """Return our steps with all cases on the device, warmed up, if there is time for them."""
    needed_s = size.setup_s + CAUTION * (size.warm_up + size.steps) * a_step_s
    make = partial(warmed, ours.with_held_data, size, report.device)
    step = report.tried(f"{row.network}: data on the device", needed_s, make)
    if step is None:
        return []
    held = Row(HELD, row.network, layout=ours.layout)
    report.rows.append(held)
    return [(held, step)]


def add_theirs(ours: Row, a_step_s: float, size: Size, report: Report) -> list[tuple[Row, Step]]:
    """Return nnU-Net's steps, warmed up: those that there is time for, and a round with them."""
    found: list[tuple[Row, Step]] = []
    name, device = ours.network, report.device
    if not has_nnunet():
        return found
    kinds = {f"{THEIRS}, compiled": True, f"{THEIRS}, eager": False}  # as it trains comes first
    for what, compiled in kinds.items():
        if compiled and device.type != "cuda":
            continue
        steps = size.warm_up + size.steps * (3 + len(found))  # a round is of all
        needed_s = size.setup_s + compiled * size.compile_s + CAUTION * steps * a_step_s
        make = partial(Theirs, name, size, device, compiled=compiled)
        step = report.tried(f"{name}: {what}", needed_s, partial(warmed, make, size, device))
        if step is not None:
            found.append((Row(what, name, layout="contiguous_format"), step))
            report.rows.append(found[-1][0])
    return found


def add_layouts(ours: Ours, name: str, a_step_s: float, size: Size, report: Report) -> None:
    """Measure the layout that training did not choose, in turn with the one that it chose.

    Training times the compiled network in both in runs of an hour or longer, and takes
    channels-last otherwise: this tells whether that was right here.
    """
    steps = 2 * (size.warm_up + size.steps)
    needed_s = size.setup_s + 2 * size.compile_s + CAUTION * steps * a_step_s
    again = partial(warmed, lambda: ours, size, report.device)  # compiled anew after the other one
    other = report.tried(
        f"{name}: both layouts",
        needed_s,
        partial(warmed, ours.in_other_layout, size, report.device),
    )
    if other is None or report.guarded(f"{name}: its layout again", again) is None:
        return
    both: list[tuple[Row, Step]] = [
        (Row("selfseg, layout that it chose", name, layout=ours.layout), ours),
        (Row("selfseg, other layout", name, layout=other.layout), other),
    ]
    report.rows += [row for row, _ in both]
    in_turn(both, size, report)


def warmed(make: Callable[[], S], size: Size, device: torch.device) -> S:
    """Return what makes steps, after its first ones."""
    step = make()
    seconds_a_step(step, size.warm_up, device)
    return step


def add_details(ours: Ours, row: Row, a_step_s: float, size: Size, report: Report) -> None:
    """Fill in what else there is to know of our training."""
    name, device = row.network, report.device
    needed_s = CAUTION * size.steps * a_step_s
    shares = partial(busy_and_waited, ours, size.steps, device)
    row.busy_share, row.waited_share = report.tried(
        f"{name}: busy and waiting", needed_s, shares
    ) or (None, None)
    tiles = partial(tiles_per_second, ours, size, device)
    row.tiles_per_s = report.tried(f"{name}: tiles", size.setup_s, tiles)
    needed_s = CAUTION * ours.course.validation_steps * a_step_s
    row.scoring_s, row.checkpoint_s = report.tried(
        f"{name}: an epoch's end", needed_s, partial(epoch_end, ours, device)
    ) or (None, None)
    report.write()


def measure(name: str, network: Network, size: Size, workers: int, report: Report) -> None:
    """Measure ours, and theirs where it is there; nothing if there is no time to begin."""
    device = report.device
    with tempfile.TemporaryDirectory() as folder:
        make = partial(Ours, network, size, Path(folder), device, workers)
        needed_s = size.setup_s + size.compile_s
        ours = report.tried(f"{name}: selfseg", needed_s, partial(warmed, make, size, device))
        if ours is None:
            return
        row = Row(OURS, name, layout=ours.layout, peak_gib=peak_gib(ours, device))
        a_step_s = seconds_a_step(ours, size.steps, device)
        row.ms_per_step, row.rounds = 1e3 * a_step_s, 1  # alone; until it has had its turns
        report.rows.append(row)
        report.write()
        add_details(ours, row, a_step_s, size, report)
        steppers: list[tuple[Row, Step]] = [
            (row, ours),
            *add_held(ours, row, a_step_s, size, report),
        ]
        steppers += add_theirs(row, a_step_s, size, report)
        in_turn(steppers, size, report)
        add_layouts(ours, name, a_step_s, size, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both networks and write what was found; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, any device")
    parser.add_argument("--workers", type=int, help="processes that load; each takes shared memory")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="time for all of it")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("selfseg").setLevel(logging.INFO)  # which way of compiling is the faster one
    report = Report(options.out, select_device("auto"), options.limit_s)
    device = report.device
    if device.type == "cpu" and not options.toy:
        parser.error("no CUDA device here; --toy tries the script out")
    size = TOY if options.toy else Size()
    workers = default_loader_workers(device) if options.workers is None else options.workers
    tasks = networks(size)
    for number, (name, network) in enumerate(tasks.items(), start=1):
        report.limit_s = options.limit_s * number / len(tasks)  # each one gets its share
        report.guarded(name, partial(measure, name, network, size, workers, report))
        for row in report.rows:
            if row.network == name:
                report.say(str(row))
        report.write()
    return int(report.has_failed)


if __name__ == "__main__":
    raise SystemExit(main())
