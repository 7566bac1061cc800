"""Augmented samples of 128³ voxels in one process, per second of processor time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from versus.measure import Reported, cpu_seconds, report

PATCH, BATCH, BATCHES = (128, 128, 128), 2, 12

Batch = tuple[torch.Tensor, torch.Tensor]  # image (b, 1, *PATCH), label (b, *PATCH)


def selfseg_batches(workspace: Path) -> Callable[[], Batch]:
    """Return what makes the next batch: selfseg's loader with the plan's full augmentation."""
    from selfseg.folds import open_planned, training_job
    from selfseg.loading.batches import training_batches
    from selfseg.requests import TrainRequest
    from selfseg.workspace.lookup import planned_folder

    known = open_planned(planned_folder(workspace, "cube"))
    job = training_job(known, TrainRequest(configuration="3d_fullres", fold="0", device="cpu"))
    configuration = job.configuration.model_copy(update={"patch": PATCH, "batch": BATCH})
    batches = training_batches(
        configuration,
        job.data,
        job.train_cases,
        steps=range(2**30),
        seed=0,
        workers=0,
        device=torch.device("cpu"),
    )

    def following() -> Batch:
        batch = next(batches)
        return batch.image, batch.label

    return following


def nnunet_batches(preprocessed: Path) -> Callable[[], Batch]:
    """Return what makes the next batch: nnU-Net's trainer's own loader and transforms."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"] |= {"patch_size": list(PATCH), "batch_size": BATCH}
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.batch_size = BATCH
    batches, _ = trainer.get_dataloaders()

    def following() -> Batch:
        batch = next(batches)
        return batch["data"], batch["target"][0].squeeze(1)  # at full resolution

    return following


def label_counts(dataset: Path) -> set[tuple[int, ...]]:
    """Return the voxels of each label in every case."""
    images = (sitk.ReadImage(str(path)) for path in (dataset / "labelsTr").glob("*.nii.gz"))
    return {counts(sitk.GetArrayFromImage(image)) for image in images}


def counts(label: np.ndarray) -> tuple[int, ...]:
    """Return the voxels of labels 0, 1, …; but of 0, since patches are smaller than cases."""
    return tuple(np.bincount(label.ravel().astype(np.int64))[1:].tolist())


def summary(sizes: set[str], found: Sequence[tuple[int, ...]], whole: set[tuple[int, ...]]) -> str:
    """Return what both sides have in common: sizes, labels, and that some samples are deformed.

    Patches hold most labels whole, so a sample in which they have exactly as many voxels as in a
    case is neither scaled nor rotated. How many are not is a matter of chance, but hardly none.

    Args:
        sizes: Of images and labels.
        found: Voxels of labels 1, 2, … in each sample.
        whole: The same in the cases.
    """
    labels = max(len(numbers) for numbers in found)
    deformed = [numbers not in whole for numbers in found]
    how_many = "all" if all(deformed) else "some" if any(deformed) else "none"
    return f"{len(found)} samples, {sorted(sizes)}, {labels} labels, {how_many} deformed"


def main(side: str, folder: str, dataset: str) -> None:
    """Measure one side; batches are looked at between the times that are taken."""
    torch.set_num_threads(1)
    make = selfseg_batches if side == "selfseg" else nnunet_batches
    following = make(Path(folder))
    following()  # the first one opens files and starts what is started once
    taken_s, sizes, found = 0.0, set(), []
    for _ in range(BATCHES):
        began_s = cpu_seconds()
        image, label = following()
        taken_s += cpu_seconds() - began_s
        sizes.add(f"{tuple(image.shape)} {tuple(label.shape)}")
        found += [counts(sample.numpy()) for sample in label]
    check = summary(sizes, found, label_counts(Path(dataset)))
    report(Reported(figure=BATCH * BATCHES / taken_s, check=check))


if __name__ == "__main__":
    main(*sys.argv[1:])
