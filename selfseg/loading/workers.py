"""Make a source's items ahead in worker processes; how one died becomes a clear message."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from selfseg.errors import DeviceError
from selfseg.execution.processes import default_workers
from selfseg.execution.resources import Freed, handle_freed_memory
from selfseg.loading.items import Failure, Item, Made
from selfseg.loading.source import BatchSource

AHEAD = 3  # items of each worker: covers the slower batches (rotated samples) of a mixed stream


def default_loader_workers(device: torch.device) -> int:
    """Return how many worker processes to use: one beside CPU training, else up to eight.

    On the CPU the training step takes all cores and a worker little of one: it makes a sample of
    40 × 56 × 40 voxels in about 4 ms. For a device workers only load: eight give some hundred
    patches of 128³ voxels a second, and each keeps finished batches in shared memory.
    """
    return 1 if device.type == "cpu" else min(8, max(1, default_workers() - 1))


def load_ahead(source: BatchSource, steps: range, *, workers: int, pin: bool) -> Iterator[Made]:
    """Yield the items of the steps in order, made ahead by processes.

    Args:
        source: Makes an item.
        steps: Numbers of the steps.
        workers: Processes; 0 makes each item here when it is wanted.
        pin: Whether items come in page-locked memory.

    Raises:
        DeviceError: A worker process died.
        Exception: Whatever the source raised, with its cause.
    """
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=_unchanged,
        pin_memory=pin,
        generator=torch.Generator(),  # else the loader takes a number from torch's global stream
        multiprocessing_context=_start_method() if workers else None,
        worker_init_fn=_start_worker,
    )
    stream = _start(loader)
    while True:
        try:
            item = next(stream)
        except StopIteration:
            return
        except (RuntimeError, EOFError, OSError) as error:
            if not workers or not _tells_of_death(error):
                raise
            raise DeviceError(
                f"a process that prepares training batches died ({error})",
                remedy="Memory or shared memory (/dev/shm) probably ran out: lower --workers; "
                "--workers 0 needs no extra process.",
            ) from error
        if isinstance(item, Failure):
            raise item.error
        yield item


def _tells_of_death(error: Exception) -> bool:
    """Tell whether an item did not come because a worker ended, maybe while it handed one over."""
    message = str(error)
    if message.startswith("Caught "):  # so torch passes on what the source raised
        return False
    if isinstance(error, RuntimeError):
        return bool(re.search(r"(DataLoader worker|Pin memory thread) .*(exited|killed)", message))
    return True


def _start(loader: DataLoader[Item]) -> Iterator[Item]:
    """Start the workers, without torch's signal handler.

    The handler raises wherever the main thread happens to be. Without it, a dead worker is noticed
    within seconds where its batch is waited for, and can be explained there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _start_worker(_: int) -> None:
    """Handle freed memory as usual, while the training that forks it measures its first steps."""
    handle_freed_memory(Freed.USUAL)


def _unchanged(item: Any) -> Any:
    return item


def _start_method() -> str:
    """Return `fork` where it is safe, so that workers share the cases held in memory."""
    return "fork" if sys.platform == "linux" else "spawn"
