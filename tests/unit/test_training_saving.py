"""When checkpoints are written: by time, at a small share of it, and at the end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from trainingjobs import make_job

from selfseg.training import saving
from selfseg.training import train as training
from selfseg.training.begin import begin
from selfseg.training.checkpoints import peek, save_checkpoint
from selfseg.training.saving import Saver


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)


@pytest.mark.parametrize(("took_s", "wait_s"), [(0.0, 60.0), (1.5, 60.0), (4.0, 80.0)])
def test_a_checkpoint_is_due_after_a_minute_or_later_where_writing_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took_s: float, wait_s: float
) -> None:
    job = make_job(tmp_path)
    state, course = begin(job)
    clock = Clock(monkeypatch)

    def slow(*arguments: object) -> None:
        clock.now_s += took_s

    monkeypatch.setattr(saving, "save_checkpoint", slow)
    saver = Saver(job, course)
    assert not saver.is_due()
    clock.now_s += 61
    assert saver.is_due()
    saver.save(state)
    clock.now_s += wait_s - 1
    assert not saver.is_due()
    clock.now_s += 2
    assert saver.is_due()


def kept_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, every_s: float
) -> list[tuple[int, int]]:
    """Return epoch and step of all checkpoints that a run of three epochs of four steps writes."""
    job, kept = make_job(tmp_path), []

    def noted(*arguments: object) -> None:
        save_checkpoint(*arguments)  # type: ignore[arg-type]
        position = peek(job.output)
        assert position is not None
        kept.append((position.epoch, position.step))

    monkeypatch.setattr(saving, "save_checkpoint", noted)
    monkeypatch.setattr(saving, "CHECKPOINT_EVERY_S", every_s)
    monkeypatch.setattr(saving, "LARGEST_SHARE", 1e9)
    training.train(job)
    return kept


def test_a_short_run_writes_one_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_positions(tmp_path, monkeypatch, every_s=60.0) == [(3, 12)]


def test_a_checkpoint_after_the_last_step_of_an_epoch_holds_the_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_positions(tmp_path, monkeypatch, every_s=-1.0)
    assert kept == [(step // 4, step) for step in range(13)]
