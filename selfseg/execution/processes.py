"""Run a function over many items in local processes; a dead worker becomes a clear message.

Workers are forked from a small server process that has imported the libraries they need (spawned
where there is no such server). So they start in milliseconds, whether or not this process has
started torch's threads, which a direct fork would not survive.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from selfseg.errors import DeviceError, SelfSegError
from selfseg.execution.resources import free_memory_gib, usable_cores
from selfseg.progress import ProgressBar

T = TypeVar("T")
R = TypeVar("R")

# A worker of ours holds one case and its temporaries: measured 15 bytes a voxel, and 90 million
# voxels are a long CT. Below this, a further worker risks the machine.
MEMORY_PER_WORKER_GIB = 1.5
SMALL_JOB = 3  # so few items are done before a second process has started
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = ("numpy", "scipy.ndimage", "SimpleITK")
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLOSC_NTHREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
NAMES_SHOWN = 6


def default_workers(option: int | None = None) -> int:
    """Return the number of worker processes: the option, else by usable cores and free memory."""
    if option is not None:
        return option
    return max(1, min(usable_cores(), int(free_memory_gib() / MEMORY_PER_WORKER_GIB)))


def start_early(workers: int, *modules: str) -> None:
    """Let the server of workers import what they need while this process does something else.

    Otherwise it starts with the first `map_parallel`, which waits for it.

    Args:
        workers: As for `map_parallel`: nothing is started for work in this process.
        modules: What workers are going to import.
    """
    if sys.platform != "linux" or workers <= 1:
        return
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload([*PRELOADED, *modules])
    with _one_thread():
        forkserver.ensure_running()


def map_parallel(
    function: Callable[[T], R], items: Sequence[T], *, workers: int, label: str
) -> list[R]:
    """Return `[function(item) for item in items]`, computed in up to `workers` processes.

    Args:
        function: A module-level function or a `functools.partial` of one (it travels by name).
        items: What to work on; an `id` or a path names an item in messages.
        workers: Number of processes; 0 or 1 works in this process.
        label: Name of the progress bar.

    Raises:
        DeviceError: A worker process died or memory ran out; names the items being worked on.
        Exception: Whatever `function` raised first, unchanged; items at work are finished before.
    """
    if workers <= 1 or len(items) < SMALL_JOB:
        return _map_here(function, items, label)
    workers = min(workers, len(items))
    with _pool(workers, _module(function)) as pool, ProgressBar(label, len(items)) as bar:
        running: dict[Future[R], int] = {}
        try:
            return _map_in_pool(pool, function, items, workers, running, bar)
        except BrokenProcessPool as error:
            names = [_name(items, index) for index in sorted(running.values())]
            how = _end_of_workers(pool)
            if how is None and error.__cause__ is not None:
                raise  # all lived: an answer that could not be read, a mistake of ours
            raise _death(label, names, how or "ended") from error


def _map_in_pool(
    pool: ProcessPoolExecutor,
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    running: dict[Future[R], int],
    bar: ProgressBar,
) -> list[R]:
    """Keep every worker busy with one item; `running` tells the items at work at any time."""
    waiting = deque(range(len(items)))
    results: dict[int, R] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            index = waiting.popleft()
            running[_submit(pool, function, items[index])] = index
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        # Those that a dead worker took down come last, so that the others are counted as done.
        for future in sorted(done, key=lambda f: (_is_broken(f), running[f])):
            index = running[future]
            with _named(_name(items, index)):
                results[index] = future.result()
            del running[future]
            bar.advance(note=_name(items, index))
    return [results[index] for index in range(len(items))]


def _map_here(function: Callable[[T], R], items: Sequence[T], label: str) -> list[R]:
    results = []
    with ProgressBar(label, len(items)) as bar:
        for index, item in enumerate(items):
            with _named(_name(items, index)):
                results.append(function(item))
            bar.advance(note=_name(items, index))
    return results


@contextmanager
def _pool(workers: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """Offer a pool; an error lets the items at work end, an interruption does not."""
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([*PRELOADED, module])  # heard if it is the first
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        try:
            yield pool
        except Exception:
            pool.shutdown()
            raise
        pool.shutdown()
    except Exception:
        raise
    except BaseException:
        for process in _processes(pool):
            process.terminate()
        pool.shutdown(wait=False)
        raise


def _submit(pool: ProcessPoolExecutor, function: Callable[[T], R], item: T) -> Future[R]:
    """Submit an item; this may start a worker, which uses one thread a library.

    A worker would run the program's main module once more: slow if that imports torch, without
    end if a script does not guard its start by `__name__`. It needs only `function`'s module.
    """
    main = sys.modules["__main__"]
    if _module(function) != "__main__":
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        with _one_thread():
            return pool.submit(function, item)
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start meanwhile use one thread a library."""
    kept = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker() -> None:
    """Leave interruptions to the main process, and end when it ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which item an error is about."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(
            f"{name}: memory ran out",
            remedy="Try again with '--workers 1', close other programs, or leave the case out.",
        ) from error
    except (SelfSegError, BrokenProcessPool):
        raise
    except Exception as error:
        error.add_note(f"while working on {name}")
        raise


def _death(label: str, names: Sequence[str], how: str) -> DeviceError:
    """Return what to raise when a worker ended before its item was done."""
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    one_of = "one of " if len(names) > 1 else ""
    return DeviceError(
        f"{label}: a worker process {how} while working on {one_of}{shown}",
        remedy="Most likely memory ran out: try again with '--workers 1' and close other programs.",
    )


def _end_of_workers(pool: ProcessPoolExecutor) -> str | None:
    """Tell how the worker ended that broke the pool; the others were then ended by SIGTERM."""
    processes = _processes(pool)
    pool.shutdown()
    for process in processes:
        code = process.exitcode
        if code is not None and code not in (0, -signal.SIGTERM):
            return f"ended with exit code {code}" if code > 0 else f"got {_signal_name(-code)}"
    return None


def _is_broken(future: Future[R]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _processes(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    # Not public before Python 3.14 (terminate_workers); None once the pool is shut down.
    return list((getattr(pool, "_processes", None) or {}).values())


def _module(function: Callable[..., object]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "builtins"))


def _name(items: Sequence[object], index: int) -> str:
    item = items[index]
    if isinstance(item, Path):
        return item.name
    return str(getattr(item, "id", "") or (item if isinstance(item, str) else f"item {index + 1}"))
