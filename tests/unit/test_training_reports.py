"""What a training tells of itself: memory beside the plan's estimate, waiting for data."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainingjobs import make_job

from selfseg.loading.batches import Batch, Batches
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.training import begin, telling, train
from selfseg.training.step import train_step
from selfseg.training.telling import LongWaits


@pytest.mark.parametrize(
    ("slow", "epochs", "warnings"), [("data", 3, 1), ("data", 1, 1), ("steps", 3, 0)]
)
def test_only_long_waits_for_data_are_warned_of_and_only_once(
    tmp_path: Path,
    slow: str,
    epochs: int,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def made_ahead(*arguments: object) -> Batches:
        batches = begin.batches_of(*arguments)  # type: ignore[arg-type]
        items = [next(batches) for _ in range(4 * epochs)]
        source = SimpleNamespace(finish=True)
        return Batches(arriving(items), source, torch.device("cpu"))  # type: ignore[arg-type]

    def arriving(items: list[Batch]) -> Iterator[Batch]:
        for item in items:
            if slow == "data":
                time.sleep(0.05)
            yield item

    def step(*arguments: object, **options: object) -> torch.Tensor:
        time.sleep(0.05 if slow == "steps" else 0)
        return train_step(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "batches_of", made_ahead)
    monkeypatch.setattr(train, "train_step", step)
    with caplog.at_level(logging.WARNING):
        train.train(make_job(tmp_path, epochs=epochs, workers=1))
    told = [record for record in caplog.records if "waits for data" in record.message]
    assert len(told) == warnings


@pytest.mark.parametrize(
    ("shares", "warned_at"),
    [
        ([0.5, 0.05, 0.05], None),  # only while files are read for the first time
        ([0.5, 0.2, 0.3], 2),
        ([0.0, 0.05, 0.05, 0.2, 0.3], 4),  # later, when another program takes the cores
        ([0.2], 1),
    ],
)
def test_a_run_that_waits_is_warned_of_once_whenever_it_begins(
    shares: list[float], warned_at: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    waits, told = LongWaits(None), []
    for epoch, share in enumerate(shares, start=1):
        before = len(caplog.records)
        waits.look_at(share, is_last=epoch == len(shares))
        told += [epoch] * (len(caplog.records) - before)
    assert told == ([] if warned_at is None else [warned_at])


@pytest.mark.parametrize(
    ("workers", "cores", "words"),
    [
        (None, 1, "give it more processes"),
        (1, 4, "give it more processes"),
        (0, 4, "with --workers 1 another process makes them"),
        (0, 1, None),  # another process would take the time of this one
    ],
)
def test_what_is_said_of_long_waits_can_be_done(
    workers: int | None,
    cores: int,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(telling, "usable_cores", lambda: cores)
    LongWaits(workers).look_at(0.5, is_last=True)
    assert ("50 %" in caplog.text) == (words is not None)
    assert words is None or words in caplog.text


def test_a_training_tells_of_its_own_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "usable_cores", lambda: 4)
    monkeypatch.setattr(telling, "LONG_WAIT", -1.0)
    train.train(make_job(tmp_path, epochs=1, workers=0))
    assert "--workers 0" in caplog.text
    assert "waits for data" not in caplog.text


def test_the_peak_of_memory_is_kept_where_the_system_counts_it(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    fold = train.train(job)
    assert fold.peak_gib == serial.load(TrainedFold, job.output.description).peak_gib
    assert (fold.peak_gib is not None) == Path("/proc/self/clear_refs").exists()
    assert fold.peak_gib is None or 0 <= fold.peak_gib < 8
