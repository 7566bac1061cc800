"""Augmented samples of 128³ voxels in one process, per second of processor time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from versus.measure import Reported, cpu_seconds, report

PATCH, BATCH, BATCHES = (128, 128, 128), 2, 12


def selfseg_batches(workspace: Path) -> Callable[[], object]:
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
    return lambda: next(batches)


def nnunet_batches(preprocessed: Path) -> Callable[[], object]:
    """Return what makes the next batch: nnU-Net's trainer's own loader and transforms."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"] |= {"patch_size": list(PATCH), "batch_size": BATCH}
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.batch_size = BATCH
    batches, _ = trainer.get_dataloaders()
    return lambda: next(batches)


def main(side: str, folder: str) -> None:
    """Measure one side."""
    torch.set_num_threads(1)
    make = selfseg_batches if side == "selfseg" else nnunet_batches
    following = make(Path(folder))
    following()  # the first one opens files and starts what is started once
    began_s = cpu_seconds()
    for _ in range(BATCHES):
        following()
    report(Reported(figure=BATCH * BATCHES / (cpu_seconds() - began_s)))


if __name__ == "__main__":
    main(*sys.argv[1:])
