"""Cases on their way: the next ones are read while one is computed and one is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from selfseg.errors import DeviceError, SelfSegError
from selfseg.networks.device import is_out_of_memory
from selfseg.preprocessing.case import PreparedCase
from selfseg.records.geometry import PreprocessedCase

# Cases read ahead, and finished cases waiting to be written: enough to overlap, little memory.
IN_FLIGHT = 2


Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """One item that is finished; `problem` is None if it went well."""

    item: Item
    problem: SelfSegError | None = None


def run_pipeline(
    items: Sequence[Item],
    prepare: Callable[[Item], PreparedCase],
    compute: Callable[[Item, PreparedCase], Tensor],
    write: Callable[[Item, PreprocessedCase, Tensor], None],
    threads: int,
    *,
    overlap: bool = True,
) -> Iterator[Outcome[Item]]:
    """Yield items as they finish: the next ones are read while one is computed, one written.

    Items are computed and written in their order, one at a time. Without `overlap` each is read,
    computed and written before the next one is read.
    """
    in_flight = IN_FLIGHT if overlap else 1
    upcoming = deque(items)
    reading: deque[tuple[Item, Future[PreparedCase]]] = deque()
    writing: deque[tuple[Item, Future[None]]] = deque()
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as writers:
        while upcoming or reading:
            while upcoming and len(reading) < in_flight:
                item = upcoming.popleft()
                reading.append((item, readers.submit(prepare, item)))
            while len(writing) >= in_flight:
                yield _outcome(*writing.popleft())
            item, prepared = reading.popleft()
            try:
                record, logits = prepared.result().record, compute(item, prepared.result())
            except Exception as error:
                yield Outcome(item, _explained(error))
                continue
            writing.append((item, writers.submit(write, item, record, logits)))
            del prepared, logits
            if not overlap:
                yield _outcome(*writing.popleft())
        while writing:
            yield _outcome(*writing.popleft())


def _outcome(item: Item, written: Future[None]) -> Outcome[Item]:
    error = written.exception()
    return Outcome(item, None if error is None else _explained(error))


def _explained(error: BaseException) -> SelfSegError:
    """Return a mistake of the user or exhausted memory as such; raise anything else."""
    if isinstance(error, SelfSegError):
        return error
    if is_out_of_memory(error):
        return DeviceError(
            f"out of memory ({error})",
            remedy="Close other programs, or set --max-memory to less than what is free.",
        )
    if isinstance(error, OSError):
        return SelfSegError(f"{error}", remedy="Check the disk's free space and permissions.")
    raise error
