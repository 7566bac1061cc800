"""A small cascade: a workspace of four cases in two folds, and training its stages."""

from __future__ import annotations

import shutil
from pathlib import Path

from commandline import write_tiny_dataset

from selfseg import folds, pipeline, requests
from selfseg.records import serial
from selfseg.records.dataset import Fold, Splits
from selfseg.records.network import UNet
from selfseg.records.plan import Plan
from selfseg.workspace.dataset import DatasetFolder

CASES = ("case_000", "case_001", "case_002", "case_003")
FEW = {"epochs": 1, "steps_per_epoch": 3, "device": "cpu", "workers": 0}


def make_cascade(plan: Plan) -> Plan:
    """Return a plan with tiny 3d_lowres and 3d_cascade made from its 3d_fullres."""
    full = folds.find_configuration(plan, "3d_fullres")
    tiny = full.model_copy(
        update={
            "network": UNet(
                features=(4, 8),
                kernels=((3, 3, 3),) * 2,
                strides=((1, 1, 1), (2, 2, 2)),
                convs_encoder=(1, 1),
                convs_decoder=(1,),
            ),
            "patch": (8, 16, 16),
            "batch": 2,
        }
    )
    coarse = tuple(1.6 * spacing for spacing in tiny.preprocessing.spacing_mm if spacing)
    preprocessing = tiny.preprocessing.model_copy(update={"spacing_mm": coarse})
    low = tiny.model_copy(update={"name": "3d_lowres", "preprocessing": preprocessing})
    last = tiny.model_copy(update={"name": "3d_cascade", "previous_stage": "3d_lowres"})
    return plan.model_copy(update={"configurations": (tiny, low, last), "proposed": ()})


def make_workspace(root: Path) -> DatasetFolder:
    """Plan four small cases in two folds."""
    data = write_tiny_dataset(root / "data", train=4, test=2)
    request = requests.PlanRequest(preprocess=False, workers=0, device="cpu")
    result = pipeline.plan_dataset(str(data), root / "workspace", request)
    assert tuple(case.id for case in result.dataset.cases) == CASES
    serial.save(make_cascade(result.plan), result.folder.plan)
    halves = tuple(
        Fold(train=CASES[2 - start : 4 - start], validation=CASES[start : start + 2])
        for start in (0, 2)
    )
    serial.save(Splits(folds=halves), result.folder.splits)
    return result.folder


def train(folder: DatasetFolder, configuration: str, fold: str) -> pipeline.TrainResult:
    request = requests.TrainRequest(configuration=configuration, fold=fold, **FEW)  # type: ignore[arg-type]
    return pipeline.train_fold(folder.path.name, folder.path.parent, request)


def previous_maps(folder: DatasetFolder) -> dict[str, Path]:
    known = folds.open_planned(folder)
    last = folds.find_configuration(known.plan, "3d_cascade")
    maps = folds.previous_maps(known, last, CASES)
    assert maps is not None
    return maps


def spread_labels(folder: DatasetFolder) -> None:
    """Replace what three steps have learned by the references, so that the maps show labels."""
    for case, path in previous_maps(folder).items():
        shutil.copy(folder.path.parent.parent / "data" / "labelsTr" / f"{case}.nii.gz", path)
