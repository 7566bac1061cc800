"""What a training accepts as its own: checkpoints, finished folds, lengths, losses."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinymodel import tiny_plan
from trainingjobs import CPU, KilledError, half_trained, make_job, stop_at_step

from selfseg.errors import CheckpointError, DeviceError, DivergenceError
from selfseg.execution.locks import held
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.training import checkpoints, epoch, history
from selfseg.training import train as training
from selfseg.training.job import TrainingJob
from selfseg.training.meter import LossMeter
from selfseg.training.state import TrainState
from selfseg.training.train import train


@pytest.fixture(autouse=True)
def few_threads() -> None:
    torch.set_num_threads(1)


def test_finished_fold_is_not_trained_again_unless_asked(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    train(job)
    written = job.output.weights.stat().st_mtime_ns
    assert train(job).steps == 12
    assert job.output.weights.stat().st_mtime_ns == written
    assert train(replace(job, restart=True, epochs=1)).steps == 4


def test_resuming_with_other_options_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="the seed"):
        train(replace(job, seed=6))
    with pytest.raises(CheckpointError, match="steps per epoch"):
        train(replace(job, steps_per_epoch=5))
    with pytest.raises(CheckpointError, match="training cases") as caught:
        train(replace(job, train_cases=job.train_cases[:2]))
    assert "--restart" in caught.value.remedy


@pytest.mark.parametrize("written_by", ["this version", "one whose digest had estimates"])
def test_an_estimate_that_changed_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_by: str
) -> None:
    job = make_job(tmp_path)
    if written_by == "this version":
        later = {"memory_gib": 3.5, "memory_bfloat16_gib": 2.5}
        other = replace(job, configuration=job.configuration.model_copy(update=later))
    else:
        other = job
        monkeypatch.setattr(TrainingJob, "digest", job.digest_with_estimates)
    stop_at_step(5, job, monkeypatch)
    monkeypatch.undo()
    found = checkpoints.read_position(job.output)
    assert found is not None
    assert (found[0].plan_digest == other.digest) == (written_by == "this version")
    assert train(other).steps == 12
    rest = replace(other, configuration=other.configuration.model_copy(update={"batch": 1}))
    assert rest.digest not in (job.digest, job.digest_with_estimates)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_damaged_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    path = job.output.checkpoint
    content = {"empty": b"", "cut": path.read_bytes()[:-100], "garbage": b"\x80\x04 no"}[damage]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        train(job)
    assert train(replace(job, restart=True)).steps == 12


def test_checkpoint_holds_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = half_trained(tmp_path, monkeypatch)
    found = checkpoints.read_position(job.output)
    assert found is not None
    position, tensors = found
    assert (position.epoch, position.step, position.seed) == (1, 4, 5)
    assert checkpoints.RNG + "cpu" in tensors


def test_finished_fold_of_another_plan_or_other_cases_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=1)
    train(job)
    network = job.configuration.network.model_copy(update={"features": (4, 6)})
    configuration = job.configuration.model_copy(update={"network": network})
    other = replace(job, configuration=configuration, plan=tiny_plan(configuration))
    with pytest.raises(CheckpointError, match="network or crop of the plan") as caught:
        train(other)
    assert "--restart" in caught.value.remedy
    with pytest.raises(CheckpointError, match="the training cases"):
        train(replace(job, train_cases=job.train_cases[:2]))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"epochs": 2}, "2 epochs"),
        ({"steps_per_epoch": 7}, "7 steps an epoch"),
        ({"time_s": 3600.0}, "3600 s"),
        ({"seed": 8}, "seed 8"),
        ({}, ""),
        ({"epochs": None, "steps_per_epoch": None}, ""),
        ({"time_s": 0.001}, ""),
    ],
)
def test_finished_fold_says_if_another_length_was_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: dict[str, object], words: str
) -> None:
    job = make_job(tmp_path, epochs=1)
    train(job)
    caplog.clear()
    with caplog.at_level(logging.INFO, "selfseg"):
        assert train(replace(job, **asked)).steps == 4  # type: ignore[arg-type]
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("trained already" in r.getMessage() for r in caplog.records)
    assert [words in message for message in warned] == ([True] if words else [])


def test_resumed_run_may_become_longer_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    assert train(replace(job, epochs=5)).steps == 20
    assert "begun for 12 steps and goes on for 20 steps" in caplog.text


def test_restart_leaves_nothing_of_the_former_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=2)
    train(job)
    job.output.validation.mkdir()
    (job.output.validation / "scores.json").write_text("{}")
    train(replace(job, restart=True, epochs=1))
    assert not job.output.validation.exists()
    assert [line.epoch for line in history.read(job.output.history)] == [1]
    assert [path.name for path in tmp_path.glob(".*")] == [".run.lock"]


def test_kill_between_description_and_weights_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_weights", _killed)
        with pytest.raises(KilledError):
            train(job)
    assert job.output.description.is_file()
    assert not job.output.weights.exists()
    lines = job.output.history.read_text()
    assert train(job).steps == 12
    assert job.output.history.read_text() == lines
    assert not job.output.checkpoint.exists()


def _killed(*_: object) -> None:
    raise KilledError


def test_measured_layout_is_kept_on_the_same_kind_of_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    found = checkpoints.read_position(job.output)
    assert found is not None
    position = found[0]
    assert (position.layout, position.device) == ("channels_last", "cpu")
    assert position.layout_on(CPU, 3) == torch.channels_last_3d
    assert position.layout_on(CPU, 2) == torch.channels_last
    assert position.layout_on(torch.device("cuda"), 3) is None
    planar = position.model_copy(update={"layout": "contiguous"})
    assert planar.layout_on(CPU, 3) == torch.contiguous_format


def test_meter_averages_finite_losses_and_counts_broken_ones_in_a_row() -> None:
    meter = LossMeter(CPU, tolerated=2)
    for value in (1.0, math.inf, 2.0, math.nan, math.nan):
        meter.add(torch.tensor(value))
    assert meter.mean() == pytest.approx(1.5)
    assert meter.read() == (3.0, 2)
    assert not meter.has_diverged()
    meter.add(torch.tensor(-math.inf))
    assert meter.has_diverged()
    meter.add(torch.tensor(0.0))
    assert not meter.has_diverged()
    meter.set(5.0, 2)
    assert meter.mean() == 2.5


def test_diverged_training_stops_at_once_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    good = job.output.checkpoint.read_bytes()
    steps = []

    def broken(state: TrainState, *_: object, **__: object) -> torch.Tensor:
        state.step += 1
        steps.append(state.step)
        return torch.tensor(math.nan)

    monkeypatch.setattr(training, "train_step", broken)
    with pytest.raises(DivergenceError, match="diverged") as caught:
        train(job)
    assert steps == [5]
    assert "3d_fullres.optimization.short_recipe.optimizer.learning_rate=0.0001" in (
        caught.value.remedy
    )
    assert job.output.checkpoint.read_bytes() == good


def test_description_says_what_made_the_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=1)
    made = train(job)
    assert serial.load(TrainedFold, job.output.description) == made
    assert (made.train_cases, made.validation_cases) == (job.train_cases, job.validation_cases)
    assert made.precision in ("float32", "bfloat16")


def test_fold_all_has_no_validation(tmp_path: Path) -> None:
    job = make_job(tmp_path, fold="all", validation_cases=(), epochs=1)
    train(job)
    line = history.read(job.output.history)[0]
    assert line.validation_loss is None
    assert line.dice == ()


def test_resumed_run_keeps_the_length_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    again = replace(job, epochs=None, steps_per_epoch=None)
    assert train(again).steps == 12


def test_changed_files_of_the_training_cases_are_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = half_trained(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="their files"):
        train(replace(job, data_digest="other"))
    train(job)
    with pytest.raises(CheckpointError, match="images, references or labels"):
        train(replace(job, data_digest="other"))


def test_a_fold_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with (
        held(job.output.lock, "busy"),
        pytest.raises(DeviceError, match="fold 0 of 3d_fullres is being trained"),
    ):
        train(job)
    assert train(job).steps == 12


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "(CUDA out of "),
        (RuntimeError("CUDA error: out of memory\nFor debugging …"), "(CUDA error: out of memory)"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "(GET was"),
    ],
)
def test_exhausted_device_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, shown: str
) -> None:
    def exhausted(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(training, "train_step", exhausted)
    with pytest.raises(DeviceError, match="out of memory at batch 2 and patch 8×8×8") as caught:
        train(make_job(tmp_path))
    assert shown in str(caught.value)
    assert "--memory" in caught.value.remedy


def test_other_errors_of_a_step_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(training, "train_step", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        train(make_job(tmp_path))


def test_validation_loss_that_is_no_number_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> float:
        return float("nan")

    monkeypatch.setattr(epoch, "float", broken, raising=False)
    train(make_job(tmp_path))
    lines = history.read(make_job(tmp_path).output.history)
    assert [line.validation_loss for line in lines] == [None] * 3
    assert all(line.dice for line in lines)
