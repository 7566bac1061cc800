"""Shape models of a fold: from training cases only, judged on others, refused, kept, resumed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapedata import ellipsoid
from tinymodel import tiny_plan
from torch import nn
from trainingdata import make_configuration, write_case
from trainingjobs import LONG, SHORT, make_job, stop_at_step

from selfseg.loading.patches import CaseFolder
from selfseg.networks.shape_autoencoder import LinearShape, ShapeAutoencoder
from selfseg.records import serial
from selfseg.records.dataset import Label, Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import DiceTerm, ShapeCodeTerm
from selfseg.records.optimization import Optimization
from selfseg.records.shape_model import ShapeModelRecord, ShapeModels, ShapeOptions
from selfseg.training import shapes as shape_models
from selfseg.training.job import TrainingJob
from selfseg.training.shape_fit import fit_shape
from selfseg.training.shapes import prepare_shapes, read_shapes, shape_refusal
from selfseg.training.train import train
from selfseg.workspace.network import FoldFolder

SIZE = (16, 18, 20)
TERM = ShapeCodeTerm(labels=("core",), start=0.1, ramp=0.1, refresh=2)
OPTIONS = ShapeOptions(grid=16, linear_copies=2, least_dice=0.8)


def write_organs(folder: Path, count: int = 6, *, seed: int = 0) -> tuple[str, ...]:
    """Write cases with an organ (1) of a like shape, and something beside it (2)."""
    rng = np.random.default_rng(seed)
    ids = tuple(f"case_{index}" for index in range(count))
    for case in ids:
        middle = np.array(SIZE) / 2 + rng.uniform(-1, 1, 3)
        mask = ellipsoid(
            SIZE, tuple(middle), tuple(np.array([5, 6, 6.5]) * rng.uniform(0.9, 1.1, 3))
        )
        label = mask.astype(np.int16)
        label[1:3, 1:3, 1:3] = 2
        write_case(folder, case, 10.0 * label[None] + rng.random((1, *SIZE)), label)
    return ids


def organ_job(
    tmp_path: Path, name: str = "run", *, options: ShapeOptions = OPTIONS, **changes: object
) -> TrainingJob:
    """Return a short training whose patch shows whole organs, with the shape constraint."""
    data = tmp_path / "organs"
    if not data.exists():
        write_organs(data)
    configuration = make_configuration(SIZE).model_copy(
        update={
            "loss": Loss(terms=(DiceTerm(), TERM)),
            "optimization": Optimization(recipe=LONG, short_recipe=SHORT, short_below_steps=100),
        }
    )
    plan = tiny_plan(configuration).model_copy(update={"shapes": options})
    job = make_job(tmp_path, name, plan=plan, configuration=configuration, data=data)
    ids = tuple(f"case_{index}" for index in range(6))
    return replace(job, train_cases=ids[:5], validation_cases=ids[5:], **changes)  # type: ignore[arg-type]


def test_models_are_made_from_training_cases_only(tmp_path: Path) -> None:
    """With the files of all other cases gone nothing changes."""
    job = organ_job(tmp_path)
    prepare_shapes(job)
    record = serial.load(ShapeModels, job.output.shapes)
    assert record.models[0].cases == job.train_cases
    assert len(record.models[0].held_out) == 5
    for path in job.data.glob(f"{job.validation_cases[0]}*"):
        path.unlink()
    again = replace(job, output=FoldFolder(tmp_path / "again"))
    prepare_shapes(again)
    assert again.output.shape_tensors.read_bytes() == job.output.shape_tensors.read_bytes()
    fewer = replace(again, train_cases=job.train_cases[:4], output=FoldFolder(tmp_path / "fewer"))
    prepare_shapes(fewer)
    assert fewer.output.shape_tensors.read_bytes() != job.output.shape_tensors.read_bytes()


def test_models_are_reused_unless_what_they_are_made_from_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = organ_job(tmp_path)
    first = prepare_shapes(job)
    assert isinstance(first["core"], LinearShape)
    made = []

    def counted(*args: Any, **options: Any) -> tuple[ShapeModelRecord, nn.Module | None]:
        made.append(1)
        return fit_shape(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shape_models, "fit_shape", counted)
        again = prepare_shapes(job)
        assert not made
        torch.testing.assert_close(again["core"].mean, first["core"].mean)  # type: ignore[attr-defined]
        prepare_shapes(replace(job, data_digest="other files"))
        assert made == [1]
        job.output.shape_tensors.unlink()
        prepare_shapes(replace(job, data_digest="other files"))
        assert made == [1, 1]


def test_a_model_that_renders_badly_is_refused_with_its_number_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = organ_job(tmp_path, options=OPTIONS.model_copy(update={"least_dice": 1.0}))
    with caplog.at_level(logging.WARNING):
        train(job)
    record = serial.load(ShapeModels, job.output.shapes).models[0]
    assert not record.accepted
    assert f"{record.dice:.4f}" in caplog.text
    assert "core is refused" in caplog.text
    assert not job.output.shape_tensors.exists()
    assert job.output.weights.is_file()


def test_a_refusal_is_told_where_no_model_can_be_used(tmp_path: Path) -> None:
    assert shape_refusal(organ_job(tmp_path)) == ""
    strict = OPTIONS.model_copy(update={"least_dice": 1.0})
    refused = shape_refusal(organ_job(tmp_path, "strict", options=strict))
    assert refused.startswith("that of core renders 5 shapes")
    assert "asked: at least 1" in refused
    job = organ_job(tmp_path, "none", options=strict)
    plain = job.configuration.model_copy(update={"loss": Loss(terms=(DiceTerm(),))})
    assert shape_refusal(replace(job, configuration=plain)) == ""


def test_with_two_cases_nothing_is_made(tmp_path: Path) -> None:
    job = organ_job(tmp_path)
    assert prepare_shapes(replace(job, train_cases=job.train_cases[:2])) == {}
    record = serial.load(ShapeModels, job.output.shapes).models[0]
    assert "only 2 usable" in record.because


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_resumed_training_with_the_shape_constraint_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """The measured weight and the random boxes go on where they were."""
    whole = organ_job(tmp_path, "whole")
    train(whole)
    without = replace(
        whole,
        output=FoldFolder(tmp_path / "without"),
        configuration=whole.configuration.model_copy(update={"loss": Loss(terms=(DiceTerm(),))}),
    )
    train(without)
    assert whole.output.weights.read_bytes() != without.output.weights.read_bytes()
    killed = replace(whole, output=FoldFolder(tmp_path / "killed"))
    stop_at_step(stop_at, killed, monkeypatch, save_every=1)
    train(killed)
    assert killed.output.weights.read_bytes() == whole.output.weights.read_bytes()


def test_an_autoencoder_learns_shapes_in_its_time_and_is_judged_on_held_out_cases(
    tmp_path: Path,
) -> None:
    options = OPTIONS.model_copy(
        update={"linear_cases": 2, "iterations": 60, "batch": 4, "learning_rate": 5e-3}
    )
    job = organ_job(tmp_path, options=options)
    models = prepare_shapes(job)
    record = serial.load(ShapeModels, job.output.shapes).models[0]
    assert (record.kind, record.code, record.iterations) == ("autoencoder", 20, 60)
    assert len(record.held_out) == 2
    assert record.dice > 0.8
    assert isinstance(models["core"], ShapeAutoencoder)
    again = replace(job, output=FoldFolder(tmp_path / "again"))
    prepare_shapes(again)
    assert again.output.shape_tensors.read_bytes() == job.output.shape_tensors.read_bytes()
    timed = replace(job, time_s=1e-3, output=FoldFolder(tmp_path / "timed"))
    prepare_shapes(timed)
    assert serial.load(ShapeModels, timed.output.shapes).models[0].iterations == 1


def test_cases_without_the_label_or_with_unannotated_voxels_near_it_are_left_out(
    tmp_path: Path,
) -> None:
    labels = []
    for kind in ("whole", "absent", "far", "near"):
        label = ellipsoid(SIZE, (8, 9, 10), (5, 6, 6)).astype(np.int16)
        if kind == "absent":
            label[:] = 0
        label[0, 0, 0] = 2 if kind == "far" else label[0, 0, 0]
        label[8, 9, 3] = 2 if kind == "near" else label[8, 9, 3]
        write_case(tmp_path, kind, np.zeros((1, *SIZE)), label)
        labels.append(kind)
    targets = Targets(labels=(Label(name="core", value=1),), ignore=7)
    folder = CaseFolder(tmp_path, tuple(labels))
    assert read_shapes(folder, "core", targets, OPTIONS).cases == ("whole", "far")


def test_flat_networks_get_no_shape_models(tmp_path: Path) -> None:
    job = organ_job(tmp_path)
    flat = make_configuration((16, 16))
    plan = job.plan.model_copy(
        update={"shapes": OPTIONS.model_copy(update={"labels": ("rim", "core")})}
    )
    assert plan.shape_labels(job.configuration) == ("core", "rim")
    assert plan.shape_labels(flat) == ()
