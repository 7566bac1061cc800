"""Run a function over many items in local processes; a dead worker becomes a clear message."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from selfseg.errors import DeviceError
from selfseg.progress import ProgressBar

T = TypeVar("T")
R = TypeVar("R")

# A worker of ours holds one case and its temporaries; below this a further one risks the machine.
MEMORY_PER_WORKER_GIB = 1.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SMALL_JOB = 3  # so few items are done before a second process has started


def default_workers(option: int | None = None) -> int:
    """Return the number of worker processes: the option, else by usable cores and free memory."""
    if option is not None:
        return option
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free_gib = psutil.virtual_memory().available / 2**30
    return max(1, min(cores or 1, int(free_gib / MEMORY_PER_WORKER_GIB)))


def map_parallel(
    function: Callable[[T], R], items: Sequence[T], *, workers: int, label: str
) -> list[R]:
    """Return `[function(item) for item in items]`, computed in up to `workers` processes.

    Args:
        function: A module-level function (it travels by name).
        items: What to work on.
        workers: Number of processes; 0 or 1 works in this process.
        label: Name of the progress bar.

    Raises:
        DeviceError: A worker process died; names the items it may have been working on.
        Exception: Whatever `function` raised first, unchanged.
    """
    if workers <= 1 or len(items) < SMALL_JOB:
        with ProgressBar(label, len(items)) as bar:
            results = []
            for item in items:
                results.append(function(item))
                bar.advance(note=_name(item))
            return results
    with ProgressBar(label, len(items)) as bar, _pool(min(workers, len(items))) as pool:
        futures = {pool.submit(function, item): index for index, item in enumerate(items)}
        return _collect(futures, items, bar)


def _collect(futures: dict[Future[R], int], items: Sequence[T], bar: ProgressBar) -> list[R]:
    """Return results in the order of `items`; the first failure cancels what has not begun."""
    results: dict[int, R] = {}
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            index = futures[future]
            try:
                results[index] = future.result()
            except BrokenProcessPool as error:
                open_items = [_name(items[i]) for i in range(len(items)) if i not in results]
                raise DeviceError(
                    f"a worker process died while working on one of: {', '.join(open_items[:6])}",
                    remedy="Most often memory ran out: try again with '--workers 1', and close "
                    "other programs; finished cases are kept.",
                ) from error
            bar.advance(note=_name(items[index]))
    return [results[index] for index in range(len(items))]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Offer a pool whose workers use one thread each, and stop it at once when something fails."""
    kept = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # workers inherit it
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(_start_method()))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_method() -> str:
    """Fork where it is safe (Linux, no torch threads yet) since it starts at once, else spawn."""
    return "fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn"


def _name(item: object) -> str:
    return str(getattr(item, "id", "") or (item if isinstance(item, str) else ""))
