"""A fold as a job: its cases, in a cascade their previous stage, its predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg.errors import DeviceError, PlanError, SelfSegError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import default_workers
from selfseg.inference.trained import PlannedDataset, previous_digest
from selfseg.preparing import prepare, prepare_auxiliary, prepare_loss_maps, prepare_previous
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.requests import TrainRequest
from selfseg.starting import start_of_fold, tell_of_random_weights
from selfseg.words import counted
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.moved import follow, lies_elsewhere, refuse_missing

if TYPE_CHECKING:
    import torch

    from selfseg.training.job import TrainingJob

log = logging.getLogger(__name__)


def open_planned(folder: DatasetFolder, source: str = "") -> PlannedDataset:
    """Read plan and dataset of a planned dataset; a plan that was edited is checked.

    Args:
        folder: Of the data set in the workspace.
        source: What the user gave to name it; a data folder is where the data are read from now.

    Raises:
        SelfSegError: The plan is none, or the folder given holds other files than were planned.
    """
    from selfseg.plan_checks import check_plan

    dataset = serial.load(Dataset, folder.dataset)
    if lies_elsewhere(folder, dataset, source):
        with waited_for(folder.plan_lock, "changes the plan"):  # and the data set with it
            dataset = follow(folder, source)
    plan = serial.load(Plan, folder.plan)
    check_plan(plan)
    return PlannedDataset(folder, plan, dataset)


def find_configuration(plan: Plan, name: str) -> Configuration:
    """Return a configuration by name; PlanError lists those that exist."""
    for configuration in plan.configurations:
        if configuration.name == name:
            return configuration
    names = ", ".join(configuration.name for configuration in plan.configurations)
    raise PlanError(
        f"plan of {plan.dataset}: no configuration {name!r}", remedy=f"Choose one of: {names}."
    )


def training_device(plan: Plan, option: str, *, trains: bool = True) -> torch.device:
    """Return the device to train on, or to predict what a trained network has not yet.

    Raises:
        DeviceError: No such device; or a plan for CUDA would be trained on a CPU unasked.
    """
    from selfseg.networks.device import select_device

    device = select_device(option)
    if trains and option == "auto" and plan.budget.device == "cuda" and device.type == "cpu":
        raise DeviceError(
            f"plan of {plan.dataset}: was made for CUDA, and there is no CUDA device here; on a "
            "CPU its training takes very long",
            remedy="Ask the scheduler for a GPU, write --device cpu if you mean it, or plan for "
            "the CPU with another --workspace ('selfseg plan DATASET --device cpu').",
        )
    return device


def training_job(known: PlannedDataset, request: TrainRequest) -> TrainingJob:
    """Return the job of a fold, with all that its training reads made ready.

    Raises:
        SelfSegError: No such configuration or fold; the previous stage of a cascade is not there;
            nor are files of held-out cases, which training itself would not miss; or random weights
            would be frozen.
    """
    from selfseg.training.job import TrainingJob
    from selfseg.training.second_encoder import refuse_random, source_weights

    configuration = find_configuration(known.plan, request.configuration)
    output = known.folder.fold(configuration.name, request.fold)
    trains = request.restart or not output.weights.is_file()
    device = training_device(known.plan, request.device, trains=trains)
    train_cases, validation_cases = _fold_cases(known, request.fold)
    _refuse_missing(known, configuration, request, validation_cases)
    start = start_of_fold(known, configuration, request.fold, validation_cases, request.start)
    if start is None and trains:
        refuse_random(configuration)
        tell_of_random_weights(known.plan, configuration.name, request.fold)
    maps = previous_maps(known, configuration, (*train_cases, *validation_cases))
    workers = default_workers(request.workers)
    arrays = prepare(
        known.folder,
        known.dataset,
        configuration,
        planned=known.plan.configurations,
        workers=workers,
    )
    return TrainingJob(
        plan=known.plan,
        configuration=configuration,
        fold=request.fold,
        train_cases=train_cases,
        validation_cases=validation_cases,
        data=arrays,
        data_digest=known.data_digest(configuration, train_cases),
        previous=prepare_previous(known, configuration, maps, workers=workers),
        previous_digest=previous_digest(known.folder, configuration),
        previous_maps=maps,
        loss_maps=prepare_loss_maps(known, configuration, workers=workers),
        start=start,
        auxiliary=prepare_auxiliary(known, configuration, workers=workers),
        source=source_weights(known, configuration, request.fold, validation_cases),
        output=output,
        epochs=request.epochs,
        steps_per_epoch=request.steps_per_epoch,
        time_s=request.time_s,
        seed=request.seed,
        device=device,
        workers=request.workers,
        restart=request.restart,
    )


def _refuse_missing(
    known: PlannedDataset,
    configuration: Configuration,
    request: TrainRequest,
    held_out: Sequence[str],
) -> None:
    """Refuse to train where validation would fail; a fold that has been validated needs no data."""
    trained = None if request.restart else known.describe(configuration, request.fold)
    if trained is None or not known.is_validated(configuration, trained):
        refuse_missing(known.dataset, held_out, configuration=configuration.name, fold=request.fold)


def validate_fold(
    known: PlannedDataset, trained: TrainedFold, *, device: str, workers: int | None
) -> MetricsTable | None:
    """Predict and score the held-out cases of a finished fold, where that is not done."""
    from selfseg.networks.device import select_device
    from selfseg.training.job import TrainingJob
    from selfseg.training.validate import validate

    configuration = find_configuration(known.plan, trained.configuration)
    job = TrainingJob(
        plan=known.plan,
        configuration=configuration,
        fold=trained.fold,
        train_cases=trained.train_cases,
        validation_cases=trained.validation_cases,
        data=known.folder.preprocessed(configuration.preprocessing),
        previous_maps=previous_maps(known, configuration, trained.validation_cases),
        output=known.folder.fold(configuration.name, trained.fold),
        device=select_device(device),
        workers=workers,
    )
    return validate(job, known)


def previous_maps(
    known: PlannedDataset, configuration: Configuration, cases: Sequence[str]
) -> dict[str, Path] | None:
    """Return the previous stage's out-of-fold label map of each case; None outside a cascade.

    Raises:
        SelfSegError: Some are not there; names the folds to train.
    """
    if configuration.previous_stage is None:
        return None
    from selfseg.training.out_of_fold import out_of_fold_maps

    stage = find_configuration(known.plan, configuration.previous_stage)
    splits = serial.load(Splits, known.folder.splits)
    return out_of_fold_maps(known, stage, splits, cases)


def _refuse_unknown(known: PlannedDataset, fold: str, cases: Sequence[str]) -> None:
    """Refuse folds of other cases than the data set has now, as after an exchange of files."""
    unknown = sorted(set(cases) - {case.id for case in known.dataset.cases})
    if unknown:
        raise SelfSegError(
            f"fold {fold}: {known.folder.splits} has {counted(len(unknown), 'case')} that "
            f"{known.folder.dataset} does not have: {', '.join(unknown[:5])}",
            remedy="Run 'selfseg plan' again with the cases of these folds, or restore the folds.",
        )


def _fold_cases(known: PlannedDataset, fold: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if fold == "all":
        return tuple(case.id for case in known.dataset.cases), ()
    from selfseg.io.splits import read_stored_splits

    splits = read_stored_splits(known.folder.splits)
    for number, chosen in enumerate(splits.folds):
        if fold == str(number):
            _refuse_unknown(known, fold, (*chosen.train, *chosen.validation))
            return chosen.train, chosen.validation
    raise SelfSegError(
        f"fold {fold!r}: {known.folder.splits} has {counted(len(splits.folds), 'fold')}",
        remedy=f"Choose 0 to {len(splits.folds) - 1}, or 'all'.",
    )
