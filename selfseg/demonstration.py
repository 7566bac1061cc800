"""The demo: generate a small data set, then plan, train two folds, predict unseen cases, score."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from selfseg import phantoms, pipeline, requests
from selfseg.records.metrics import MetricsTable

log = logging.getLogger(__name__)

NAME = "demo"
TRAIN_CASES, TEST_CASES = 12, 4
FOLDS = ("0", "1")
# By steps, not by time: a busy machine takes longer, but its result is as good.
EPOCHS, STEPS_PER_EPOCH = 10, 24
WINDOW_HU = (-160.0, 240.0)  # the usual abdominal window


@dataclass(frozen=True)
class Demonstration:
    """Where the demo's files lie, and the scores on the unseen cases."""

    workspace: Path
    metrics: MetricsTable
    picture: Path


def run(folder: Path, *, device: str, workers: int | None, seed: int) -> Demonstration:
    """Run everything on generated data below `folder`; all files are real and stay.

    Args:
        folder: Receives data/, workspace/, predictions/, metrics.json, metrics.csv, picture.png.
        device: `cpu`, `cuda` or `auto`.
        workers: Parallel processes; None decides by itself.
        seed: Seed of the data and of training.
    """
    data, workspace, predictions = folder / "data", folder / "workspace", folder / "predictions"
    log.info("1/5 generate %d cases in %s", TRAIN_CASES + TEST_CASES, data)
    phantoms.write_dataset(data, name=NAME, train=TRAIN_CASES, test=TEST_CASES, seed=seed)
    log.info("2/5 selfseg plan %s", data)
    pipeline.plan_dataset(
        str(data), workspace, requests.PlanRequest(device=device, workers=workers)
    )
    for fold in FOLDS:
        log.info("3/5 selfseg train %s 3d_fullres %s", NAME, fold)
        request = requests.TrainRequest(
            configuration="3d_fullres",
            fold=fold,
            epochs=EPOCHS,
            steps_per_epoch=STEPS_PER_EPOCH,
            device=device,
            workers=workers,
            seed=seed,
        )
        pipeline.train_fold(NAME, workspace, request)
    log.info("4/5 selfseg predict -i %s -o %s", data / "imagesTs", predictions)
    pipeline.predict_images(
        requests.PredictRequest(
            source=data / "imagesTs",
            output=predictions,
            model=workspace,
            configuration="3d_fullres",
            device=device,
            workers=workers,
        )
    )
    log.info("5/5 selfseg evaluate -p %s -r %s", predictions, data / "labelsTs")
    metrics = pipeline.evaluate_predictions(
        predictions, data / "labelsTs", output=folder / "metrics", workers=workers
    )
    picture = _draw(data, predictions, folder / "picture.png")
    return Demonstration(workspace=workspace, metrics=metrics, picture=picture)


def _draw(data: Path, predictions: Path, path: Path) -> Path:
    from selfseg.io.images import read_image, read_label_map
    from selfseg.reporting.overlays import save_overlay

    case = f"case_{TRAIN_CASES:03d}"
    image = read_image([data / "imagesTs" / f"{case}_0000.nii.gz"])
    reference = read_label_map(data / "labelsTs" / f"{case}.nii.gz")
    prediction = read_label_map(predictions / f"{case}.nii.gz")
    save_overlay(
        image.array[0].clip(*WINDOW_HU),
        reference.array[0],
        prediction.array[0],
        path,
        names=[label.name for label in phantoms.LABELS],
        spacing_mm=image.geometry.spacing_mm,
        title=f"Unseen case {case}, mean of {len(FOLDS)} folds",
    )
    return path
