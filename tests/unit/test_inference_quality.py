"""Quality scores: high for shapes like those of training, low for broken ones, in the outputs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from shapedata import ellipsoid
from targets import nested
from tinymodel import save_model, tiny_configuration, tiny_plan

from selfseg.cli.tables import print_predictions
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import load_ensemble
from selfseg.inference.quality import LabelShape, QualityMeter, shape_score
from selfseg.io.unlabeled import list_cases
from selfseg.networks.shape_autoencoder import LinearShape, fit_linear
from selfseg.networks.shape_files import save_tensors
from selfseg.networks.shape_grid import ShapeBox, bounds, sample_box
from selfseg.records import serial
from selfseg.records.shape_model import PredictionQuality, ShapeModelRecord, ShapeModels

SHAPE, AXES = (24, 26, 22), (1, 0, 2)
GRID, MARGIN = 16, 0.15


def flat_ended(length: float) -> np.ndarray:
    """Return half an ellipsoid along the first axis: not the same from any other side."""
    mask = ellipsoid(SHAPE, (4, 13, 11), (length, 9, 7))
    mask[:4] = False
    return mask


def model() -> LinearShape:
    """Return a model of such shapes in the order of axes (1, 0, 2)."""
    maps = []
    for length in (12, 13, 14, 15, 16):
        mask = torch.from_numpy(flat_ended(length).transpose(AXES).copy())
        low, high = bounds(mask).tolist()
        box = ShapeBox(tuple(map(float, low)), tuple(map(float, high))).grown(MARGIN)
        maps.append(sample_box(mask[None].float(), box, GRID))
    return fit_linear(torch.stack(maps), variance=0.95, margin=MARGIN)


def test_a_shape_like_those_of_training_scores_high_and_a_broken_one_low() -> None:
    whole = flat_ended(13.5)
    broken = whole.copy()
    broken[8:12] = False
    scores = [
        shape_score(torch.from_numpy(mask.transpose(AXES).copy()), model())
        for mask in (whole, broken)
    ]
    assert scores[0] > 0.9
    assert scores[1] < scores[0] - 0.05
    assert shape_score(torch.zeros(5, 5, 5, dtype=torch.bool), model()) == 0


def test_axes_are_taken_in_the_order_of_the_model_and_labels_missing_score_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    targets = nested()
    shapes = [LabelShape(name, model(), AXES, 0.9) for name in ("whole", "center")]
    meter = QualityMeter(shapes, targets)
    with caplog.at_level(logging.WARNING):
        meter.add("a", flat_ended(13.5).astype(np.uint8) * 2)
        meter.add("b", flat_ended(13.5).transpose(1, 2, 0).astype(np.uint8) * 2)
    first, second = meter.cases
    assert [label.name for label in first.labels] == ["whole", "center"]
    assert first.labels[0].score > 0.9 > second.labels[0].score
    assert first.labels[1].score == 0
    assert "a: center has an unusual shape" in caplog.text
    assert "a: whole" not in caplog.text


def write_fold_shapes(folder: Path, low: float) -> None:
    """Put a shape model of `core` beside the weights of fold 0."""
    plan = tiny_plan(tiny_configuration(axes=AXES))
    files = save_model(folder, plan).fold("3d_fullres", "0")
    item = ShapeModelRecord(
        name="core", kind="linear", code=2, cases=(), held_out=(), dice=1, low=low, accepted=True,
        because="",
    )  # fmt: skip
    made = ShapeModels(
        source="", grid=GRID, box_margin=MARGIN, axes=AXES, models=(item,), seconds=0.0
    )
    save_tensors({0: model()}, files.shape_tensors)
    serial.save(made, files.shapes)


def test_prediction_writes_scores_and_tells_which_case_to_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    image = np.random.default_rng(0).normal(size=(10, 20, 20)).astype(np.float32)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "in" / "a.nii.gz"))
    cases = list_cases(tmp_path / "in", 1)
    write_fold_shapes(tmp_path / "model", low=1.0)
    ensemble = load_ensemble(tmp_path / "model", device=torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        report = predict_ensemble(ensemble, cases, tmp_path / "out")
    (scored,) = report.quality
    assert (scored.case, scored.labels[0].name) == ("a", "core")
    assert scored.labels[0].is_low
    assert serial.load(PredictionQuality, tmp_path / "out" / "quality.json").cases == report.quality
    print_predictions(report, tmp_path / "out", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["quality"]["a"]["core"] == {"score": scored.labels[0].score, "low": True}
    print_predictions(report, tmp_path / "out", as_json=False)
    assert "LOOK AT a: core" in capsys.readouterr().out


def test_without_shape_models_nothing_is_scored_or_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(np.ones((8, 16, 16), np.float32))
    sitk.WriteImage(image, str(tmp_path / "in" / "a.nii.gz"))
    save_model(tmp_path / "model", tiny_plan())
    ensemble = load_ensemble(tmp_path / "model", device=torch.device("cpu"))
    report = predict_ensemble(ensemble, list_cases(tmp_path / "in", 1), tmp_path / "out")
    assert report.quality == ()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
