"""Predictions of the same model on the same images: seconds a case from the loaded model on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from versus.measure import Reported, report

THREADS = 2
SUFFIX = "_0000.nii.gz"


def predict_selfseg(model: Path, images: Path, output: Path) -> float:
    """Predict as the command does; return the seconds, with the model's loading (it is short)."""
    from selfseg.pipeline import predict_images
    from selfseg.requests import PredictRequest

    began_s = time.perf_counter()
    found = predict_images(
        PredictRequest(source=images, output=output, model=model, device="cpu", workers=THREADS)
    )
    assert not found.failed, found.failed
    return time.perf_counter() - began_s


def predict_nnunet(model: Path, images: Path, output: Path) -> float:
    """Predict as nnU-Net's command does; return the seconds after the model is loaded."""
    from nnunetv2.inference import predict_from_raw_data
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    # Of the trainer only its way from plan to network is wanted, which is that of all plain ones;
    # a search by name imports every trainer there is, and packages that may not fit this torch.
    predict_from_raw_data.recursive_find_trainer_class_by_name = lambda _: nnUNetTrainer
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    folds = [path.name.removeprefix("fold_") for path in model.glob("fold_*")]
    chosen = tuple(fold if fold == "all" else int(fold) for fold in folds)
    predictor.initialize_from_trained_model_folder(str(model), chosen, "checkpoint_final.pth")
    cases = sorted(images.glob(f"*{SUFFIX}"))
    output.mkdir(parents=True, exist_ok=True)
    began_s = time.perf_counter()
    predictor.predict_from_files(
        [[str(path)] for path in cases],
        [str(output / path.name.removesuffix(SUFFIX)) for path in cases],
        num_processes_preprocessing=THREADS,
        num_processes_segmentation_export=THREADS,
    )
    return time.perf_counter() - began_s


def summary(output: Path) -> str:
    """Return what both sides have in common: cases, voxels, and the share of each label."""
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in output.glob("*.nii.gz")]
    counts = np.sum([np.bincount(array.ravel(), minlength=3) for array in arrays], axis=0)
    shares = ", ".join(f"{share:.2f}" for share in counts / counts.sum())
    return f"{len(arrays)} cases, {counts.sum()} voxels, labels {shares}"


def main(side: str, model: str, images: str, output: str) -> None:
    """Measure one side."""
    torch.set_num_threads(THREADS)
    predict = predict_selfseg if side == "selfseg" else predict_nnunet
    seconds = predict(Path(model), Path(images), Path(output))
    cases = len(list(Path(images).glob(f"*{SUFFIX}")))
    report(Reported(figure=seconds / cases, check=summary(Path(output))))


if __name__ == "__main__":
    main(*sys.argv[1:])
