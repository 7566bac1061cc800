"""A training that is asked to end (SIGTERM) keeps its last step; what training leaves behind."""

from __future__ import annotations

import logging
import re
import signal
from pathlib import Path

import pytest
import torch
from trainingjobs import KilledError, make_job, stop_at_step

from selfseg.errors import DeviceError
from selfseg.execution.termination import termination_noted
from selfseg.loading.batches import Batch, Batches
from selfseg.training import begin, train
from selfseg.training.checkpoints import peek
from selfseg.training.epoch import EpochScores, score_epoch
from selfseg.training.job import TrainingJob
from selfseg.training.state import TrainState
from selfseg.training.step import train_step


def ask_to_end() -> None:
    """Do what SIGTERM does; the signal itself would kill a process that does not handle it."""
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler), "nothing notes SIGTERM"
    handler(signal.SIGTERM, None)


def train_until_asked(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, *, at_step: int, die: bool = False
) -> None:
    """Train a job that gets SIGTERM during a step; with `die` its workers get it as well."""

    def asked(state: TrainState, *arguments: object, **options: object) -> torch.Tensor:
        if state.step == at_step:
            ask_to_end()
        return train_step(state, *arguments, **options)  # type: ignore[arg-type]

    class Dying(Batches):
        """The batches of a job until its workers die."""

        def __init__(self, *arguments: object) -> None:
            self.__dict__ = begin.batches_of(*arguments).__dict__  # type: ignore[arg-type]
            self.left = at_step + 1

        def __next__(self) -> Batch:
            if self.left == 0:
                raise DeviceError("a process that prepares training batches died")
            self.left -= 1
            return super().__next__()

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", asked)
        if die:
            patch.setattr(train, "batches_of", Dying)
            patch.setattr(train, "_train_steps", without_looking(train._train_steps))
        with pytest.raises(SystemExit) as caught:
            train.train(job)
    assert caught.value.code == 143


def without_looking(steps: object) -> object:
    """Let the workers' death be noticed before the request itself."""

    def run_steps(state: TrainState, run: train.Run) -> object:
        from dataclasses import replace

        return steps(state, replace(run, is_asked_to_end=lambda: False))  # type: ignore[operator]

    return run_steps


@pytest.mark.parametrize("die", [False, True])
def test_a_training_that_is_asked_to_end_keeps_the_step_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, die: bool
) -> None:
    whole = make_job(tmp_path, "whole")
    train.train(whole)
    job = make_job(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    train_until_asked(job, monkeypatch, at_step=5, die=die)
    position = peek(job.output)
    assert position is not None
    assert (position.epoch, position.step) == (1, 6)
    assert signal.getsignal(signal.SIGTERM) == before
    assert train.train(job).steps == 12
    assert job.output.weights.read_bytes() == whole.output.weights.read_bytes()


def test_a_request_between_epochs_keeps_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*arguments: object) -> EpochScores:
        ask_to_end()
        return score_epoch(*arguments)  # type: ignore[arg-type]

    job = make_job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train, "score_epoch", asked)
        with pytest.raises(SystemExit):
            train.train(job)
    position = peek(job.output)
    assert position is not None
    assert (position.epoch, position.step) == (1, 4)


def test_a_request_during_the_last_step_ends_the_program_after_the_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    train_until_asked(job, monkeypatch, at_step=11)
    assert job.output.weights.is_file()


def test_other_errors_are_not_hidden_by_a_request() -> None:
    def fail() -> None:
        with termination_noted() as is_asked:
            assert not is_asked()
            ask_to_end()
            assert is_asked()
            raise KilledError

    with pytest.raises(KilledError):
        fail()


def test_a_checkpoint_that_a_kill_cut_short_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    stop_at_step(5, job, monkeypatch)
    half = job.output.checkpoint.parent / ".state.safetensors.ab12"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    other = job.output.path / ".mine"
    other.mkdir()
    stop_at_step(6, job, monkeypatch)
    assert not half.exists()
    assert job.output.checkpoint.is_file()
    assert other.is_dir()


def test_what_training_tells_stands_in_a_file_that_grows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("selfseg.progress.PLAIN_LINE_EVERY_S", 0.0)
    job = make_job(tmp_path)
    with caplog.at_level(logging.INFO, logger="selfseg"):
        stop_at_step(5, job, monkeypatch)
        first = job.output.log.read_text()
        train.train(job)
    told = job.output.log.read_text()
    assert told.startswith(first)
    lines = told.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", x) for x in lines)
    for part in ("Device: CPU, ", "Recipe: ", "Epoch 1: loss", "Resuming after epoch 1", "Epoch 3"):
        assert sum(part in line for line in lines) == (2 if part.startswith("Device") else 1)
    shown = capsys.readouterr().err
    assert "fold 0: 8.3 %, epoch 1, step 1," in shown
    assert "fold 0: 100.0 %, done in" in shown
    assert "%, epoch" not in told
