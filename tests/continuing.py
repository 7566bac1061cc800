"""A folder of small images and a tiny model, to predict and to go on predicting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from tinymodel import save_model, tiny_plan

from selfseg.inference.journal import HIDDEN_FOLDER
from selfseg.inference.predictor import PredictionReport
from selfseg.pipeline import predict_images
from selfseg.requests import PredictRequest

CASES = ("a", "b", "c", "d", "e")


def write_image(path: Path, seed: int) -> None:
    array = np.random.default_rng(seed).normal(1, 1, (8, 16, 16)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def make_request(tmp_path: Path) -> PredictRequest:
    """Write a model of two folds and the images, and ask for what the first fold makes."""
    save_model(tmp_path / "model", tiny_plan(), folds=("0", "1"))
    for seed, case in enumerate(CASES):
        write_image(tmp_path / "in" / f"{case}.nii.gz", seed)
    return PredictRequest(
        source=tmp_path / "in", output=tmp_path / "out", model=tmp_path / "model",
        folds=("0",), tta=False, device="cpu", workers=0,
    )  # fmt: skip


def again(asked: PredictRequest, **changes: object) -> PredictionReport:
    """Go on with a prediction."""
    return predict_images(replace(asked, resume=True, **changes))  # type: ignore[arg-type]


def entry(asked: PredictRequest, case: str) -> Path:
    """Return where a case is entered."""
    return asked.output / HIDDEN_FOLDER / f"{case}.json"
