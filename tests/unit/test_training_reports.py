"""What a training tells of itself: memory beside the plan's estimate, waiting for data."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trainingjobs import make_job

from selfseg.loading.batches import Batch
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.training import begin, train
from selfseg.training.step import train_step


@pytest.mark.parametrize("slow", ["data", "steps"])
def test_only_long_waits_for_data_are_warned_of_and_only_once(
    tmp_path: Path,
    slow: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def made_ahead(*arguments: object) -> Iterator[Batch]:
        batches = begin.batches_of(*arguments)  # type: ignore[arg-type]
        for batch in [next(batches) for _ in range(12)]:
            time.sleep(0.05 if slow == "data" else 0)
            yield batch

    def step(*arguments: object, **options: object) -> torch.Tensor:
        time.sleep(0.05 if slow == "steps" else 0)
        return train_step(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "batches_of", made_ahead)
    monkeypatch.setattr(train, "train_step", step)
    with caplog.at_level(logging.WARNING):
        train.train(make_job(tmp_path))
    warnings = [record for record in caplog.records if "waits for data" in record.message]
    assert len(warnings) == (slow == "data")


def test_the_peak_of_memory_is_kept_where_the_system_counts_it(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    fold = train.train(job)
    assert fold.peak_gib == serial.load(TrainedFold, job.output.description).peak_gib
    assert (fold.peak_gib is not None) == Path("/proc/self/clear_refs").exists()
    assert fold.peak_gib is None or 0 <= fold.peak_gib < 8
