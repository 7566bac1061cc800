"""Speed on a GPU in one run of a few minutes: training steps, busy share, tiles; JSON out.

`python tests/gpu/bench.py --out results.json`. Where nnU-Net's network package is installed its
network and loss run in turn with ours, eager and compiled, on data that already lie on the device
(their best case); ours loads and augments. `--toy` shrinks everything, for machines without a GPU.
The file is written after each network; what `--limit-s` leaves no time for stands there as skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch._C._autograd import DeviceType

sys.path[:0] = [str(Path(__file__).parents[1])]
from gpusteps import OUTPUTS, TOY, Ours, Size, Theirs, networks  # noqa: E402

from selfseg.files import arriving  # noqa: E402
from selfseg.inference.sliding_window import predict_logits  # noqa: E402
from selfseg.inference.window_grid import make_grid  # noqa: E402
from selfseg.loading.batches import default_loader_workers  # noqa: E402
from selfseg.networks.device import select_device, wait_for  # noqa: E402
from selfseg.records.network import Network  # noqa: E402
from selfseg.records.plan import Inference  # noqa: E402

THEIRS = "nnU-Net's network and loss"
ROUNDS = 3
LIMIT_S = 450.0
CAUTION = 1.5  # what is predicted from one step of ours may take longer


@dataclass
class Clock:
    """What is left of the time; notes what it does not suffice for."""

    limit_s: float
    began_s: float = field(default_factory=time.perf_counter)
    skipped: list[str] = field(default_factory=list)

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
        self.skipped.append(f"{what}: about {needed_s:.0f} s needed, {left_s:.0f} s left")
        self.say(f"skipped {self.skipped[-1]}")
        return False


@dataclass(frozen=True)
class Row:
    """One measurement; None where it does not apply."""

    what: str
    network: str
    ms_per_step: float
    rounds: int
    busy_share: float | None = None
    waited_share: float | None = None
    tiles_per_s: float | None = None
    peak_gib: float | None = None


def seconds_a_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the mean time of so many steps."""
    wait_for(device)
    began_s = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    return (time.perf_counter() - began_s) / steps


def in_turn(
    name: str,
    steppers: Sequence[Callable[[], None]],
    size: Size,
    device: torch.device,
    clock: Clock,
) -> list[list[float]]:
    """Return the milliseconds of a step of each in every round; in a round each has its turn."""
    times: list[list[float]] = [[] for _ in steppers]
    needed_s = 0.0
    for number in range(1, ROUNDS + 1):
        what = f"{name}: steps, round {number} of {ROUNDS}"
        if number > 1 and not clock.suffices(what, needed_s):  # what was begun gets one round
            break
        began_s = clock.elapsed_s
        for step, found in zip(steppers, times, strict=True):
            found.append(1e3 * seconds_a_step(step, size.steps, device))
        needed_s = clock.elapsed_s - began_s
    return times


def busy_and_waited(
    ours: Ours, steps: int, device: torch.device
) -> tuple[float | None, float | None]:
    """Return the shares of the time in which the device computes, and a batch is waited for.

    None on a CPU.
    """
    if device.type != "cuda":
        return None, None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        ours.waited_s = 0.0
        taken_s = steps * seconds_a_step(ours, steps, device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    )
    return busy_share(spans), ours.waited_s / taken_s


def busy_share(spans: Sequence[tuple[float, float]]) -> float | None:
    """Return the share of the time from the first to the last of sorted spans that they cover."""
    if not spans:
        return None
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return float(busy / (reached - spans[0][0]))


@torch.no_grad()
def tiles_per_second(ours: Ours, size: Size, device: torch.device) -> float:
    """Return how many windows of a training patch's size are predicted a second, no mirroring."""
    network = ours.state.network.eval()
    image = torch.randn(1, *(3 * side for side in size.patch))
    options = Inference(mirror_axes=())
    windows = make_grid(
        image.shape[1:], size.patch, step=options.step, sigma=options.window_sigma
    ).windows()
    times = []
    for _ in range(2):  # the first one warms up
        wait_for(device)
        began_s = time.perf_counter()
        predict_logits(
            network, image, patch=size.patch, options=options, outputs=OUTPUTS, device=device
        )
        wait_for(device)
        times.append(time.perf_counter() - began_s)
    network.train()
    return len(windows) / times[-1]


def peak_gib(step: Callable[[], None], device: torch.device) -> float | None:
    """Return the most device memory during a step after the first ones; None on a CPU.

    What building the network took, and trying convolutions in the first step, is not in it.
    """
    if device.type != "cuda":
        return None
    wait_for(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def has_nnunet() -> bool:
    """Tell whether nnU-Net's network and loss can be imported."""
    try:
        import dynamic_network_architectures  # noqa: F401
        import nnunetv2  # noqa: F401
    except ImportError:
        return False
    return True


def add_theirs(
    name: str, a_step_s: float, size: Size, device: torch.device, clock: Clock
) -> dict[str, Callable[[], None]]:
    """Return nnU-Net's steps, warmed up: those that there is time for, and a round with them."""
    found: dict[str, Callable[[], None]] = {}
    if not has_nnunet():
        return found
    kinds = {f"{THEIRS}, compiled": True, f"{THEIRS}, eager": False}  # as it trains comes first
    for what, compiled in kinds.items():
        if compiled and device.type != "cuda":
            continue
        steps = size.warm_up + size.steps * (2 + len(found))  # a round is of all
        needed_s = size.setup_s + compiled * size.compile_s + CAUTION * steps * a_step_s
        if clock.suffices(f"{name}: {what}", needed_s):
            found[what] = Theirs(name, size, device, compiled=compiled)
            seconds_a_step(found[what], size.warm_up, device)
    return found


def measure(
    name: str, network: Network, size: Size, device: torch.device, workers: int, clock: Clock
) -> list[Row]:
    """Measure ours, and theirs where it is there; nothing if there is no time to begin."""
    if not clock.suffices(f"{name}: selfseg", size.setup_s + size.compile_s):
        return []
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(network, size, Path(folder), device, workers)
        seconds_a_step(ours, size.warm_up, device)
        peak = peak_gib(ours, device)
        a_step_s = seconds_a_step(ours, 1, device)
        busy = waited = tiles = None
        if clock.suffices(f"{name}: busy and waiting", CAUTION * size.steps * a_step_s):
            busy, waited = busy_and_waited(ours, size.steps, device)
        if clock.suffices(f"{name}: tiles", size.setup_s):
            tiles = tiles_per_second(ours, size, device)
        others = add_theirs(name, a_step_s, size, device, clock)
        times = in_turn(name, [ours, *others.values()], size, device, clock)
    ms = [(statistics.median(found), len(found)) for found in times]
    rows = [Row("selfseg, loading and augmenting", name, *ms[0], busy, waited, tiles, peak)]
    return rows + [Row(what, name, *found) for what, found in zip(others, ms[1:], strict=True)]


def write(path: Path, rows: Sequence[Row], clock: Clock, device: torch.device) -> None:
    """Write what was found so far; the file is whole at any time."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found = {
        "device": on,
        "torch": torch.__version__,
        "elapsed_s": clock.elapsed_s,
        "skipped": clock.skipped,
        "rows": [asdict(row) for row in rows],
    }
    with arriving(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both networks and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, any device")
    parser.add_argument("--workers", type=int, help="processes that load; each takes shared memory")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="time for all of it")
    options = parser.parse_args(arguments)
    clock = Clock(options.limit_s)
    device = select_device("auto")
    if device.type == "cpu" and not options.toy:
        parser.error("no CUDA device here; --toy tries the script out")
    size = TOY if options.toy else Size()
    workers = default_loader_workers(device) if options.workers is None else options.workers
    rows: list[Row] = []
    tasks = networks(size)
    for number, (name, network) in enumerate(tasks.items(), start=1):
        clock.limit_s = options.limit_s * number / len(tasks)  # each one gets its share
        found = measure(name, network, size, device, workers, clock)
        for row in found:
            clock.say(str(row))
        rows += found
        write(options.out, rows, clock, device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
