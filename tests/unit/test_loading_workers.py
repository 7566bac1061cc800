"""Processes that make batches ahead: what they raise, how one died, how many there are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trainingdata import make_configuration, make_folder

from selfseg.errors import DeviceError
from selfseg.loading import workers as module
from selfseg.loading.items import Batch
from selfseg.loading.patches import CaseFolder
from selfseg.loading.source import BatchSource
from selfseg.loading.workers import default_loader_workers, load_ahead


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preprocessed")
    make_folder(path, cases=1, channels=2)
    return path


def open_source(kind: type[BatchSource], folder: Path) -> BatchSource:
    configuration = make_configuration((8, 8, 8), channels=2)
    cases = CaseFolder(folder, ("case_0",))
    return kind(configuration, cases, seed=0, augment=True, finish=True)


class Deadly(BatchSource):
    """Kills its own process at step 2, as the system does when memory runs out."""

    def __getitem__(self, step: int) -> Batch:
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64))


class Broken(BatchSource):
    """Has a bug."""

    def __getitem__(self, step: int) -> Batch:
        raise KeyError(f"bug at step {step}")


@pytest.mark.slow
def test_a_killed_worker_is_explained(folder: Path) -> None:
    source = open_source(Deadly, folder)
    stream = load_ahead(source, range(5), workers=1, pin=False)
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DeviceError, match="died") as caught:
        list(stream)
    assert "--workers 0" in caught.value.remedy
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_bug_in_a_worker_keeps_its_cause(folder: Path) -> None:
    source = open_source(Broken, folder)
    with pytest.raises(KeyError, match="bug at step 0"):
        list(load_ahead(source, range(5), workers=1, pin=False))


class FullDisk(BatchSource):
    """Cannot read its files."""

    def __getitem__(self, step: int) -> Batch:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_cannot_be_read_are_no_death(folder: Path, workers: int) -> None:
    source = open_source(FullDisk, folder)
    with pytest.raises(OSError, match="Input/output error"):
        list(load_ahead(source, range(2), workers=workers, pin=False))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("Pin memory thread exited unexpectedly"),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError(2, "No such file or directory"),
        EOFError(),
    ],
)
def test_a_worker_that_dies_while_it_hands_a_batch_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def start(_: object) -> Iterator[Batch]:
        yield Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        raise error

    monkeypatch.setattr(module, "_start", start)
    source = open_source(BatchSource, folder)
    stream = load_ahead(source, range(5), workers=1, pin=False)
    assert isinstance(next(stream), Batch)
    with pytest.raises(DeviceError, match="a process that prepares training batches died"):
        next(stream)


def test_default_workers() -> None:
    assert default_loader_workers(torch.device("cpu")) == 1
    assert default_loader_workers(torch.device("cuda")) >= 1
