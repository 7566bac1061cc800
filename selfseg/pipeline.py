"""The commands as functions: each one reads records, runs stages in a row, writes records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg import planning
from selfseg.budget import parse_gib
from selfseg.errors import SelfSegError
from selfseg.execution.processes import default_workers
from selfseg.execution.resources import Freed, handle_freed_memory, usual_afterwards
from selfseg.folds import open_planned, training_job, validate_fold
from selfseg.plan import plan_dataset
from selfseg.planned import PlanResult, shown_plan
from selfseg.records import serial
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.selection import Selection
from selfseg.records.transfer import TransferReport
from selfseg.requests import (
    PredictRequest,
    SelectRequest,
    TrainRequest,
    parse_part,
    parse_tolerances,
)
from selfseg.workspace.lookup import planned_folder

if TYPE_CHECKING:
    from selfseg.evaluation.further import Further
    from selfseg.inference.model import Ensemble
    from selfseg.inference.predictor import PredictionReport

__all__ = [
    "PlanResult",
    "TrainResult",
    "evaluate_predictions",
    "plan_dataset",
    "predict_images",
    "select_models",
    "shown_plan",
    "train_fold",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained fold, where it lies, and the scores of its validation cases (if it has any).

    `transfer` tells what came from the model that it started from (if it did).
    """

    fold: TrainedFold
    folder: Path
    scores: MetricsTable | None
    transfer: TransferReport | None = None


def train_fold(dataset: str, workspace: Path, request: TrainRequest) -> TrainResult:
    """Train one fold of one configuration, or go on with it; predict and score its validation.

    Raises:
        SelfSegError: No such plan, configuration or fold; a checkpoint that does not fit.
    """
    from selfseg.training.train import train
    from selfseg.training.validate import validate

    known = open_planned(planned_folder(workspace, dataset), dataset)
    job = training_job(known, request)
    trained = train(job)
    scores = validate(job, known)
    report = job.output.transfer
    return TrainResult(
        fold=trained,
        folder=job.output.path,
        scores=scores,
        transfer=serial.load(TransferReport, report) if trained.start is not None else None,
    )


def predict_images(request: PredictRequest) -> PredictionReport:
    """Segment a folder or one image; broken images are reported and the others done.

    The model is what selection.json chose, unless a configuration or folds are asked for.

    Raises:
        ModelError: No usable model, or several without a choice; or the finished cases that are to
            be kept were made by another one.
        DatasetError: The input folder holds nothing that fits the model's channels.
        SelfSegError: The limit of memory is no amount.
        DeviceError: The limit of memory is too small, or the engine does not go with device or
            limit; nothing has been computed then.
    """
    limit = request.max_memory
    limit_gib = None if limit is None else parse_gib(limit, "--max-memory")
    _refuse_output(request.source, request.output)
    from selfseg.bundles import opened_model
    from selfseg.inference.basis import prediction_basis
    from selfseg.inference.journal import Journal
    from selfseg.inference.limit import room_gib
    from selfseg.inference.members import predict_ensemble
    from selfseg.inference.model import load_ensemble
    from selfseg.inference.openvino_engine import check_engine
    from selfseg.io.unlabeled import list_cases
    from selfseg.networks.device import select_device

    device = select_device(request.device)
    part = slice(None) if request.part is None else parse_part(request.part)
    tta = True if request.tta is None else request.tta
    check_engine(request.engine, device, limited=limit_gib is not None)
    with opened_model(request.model) as folder, usual_afterwards():
        model = load_ensemble(
            folder,
            configuration=request.configuration,
            folds=request.folds,
            device=device,
            engine=request.engine,
        )
        log.info("Model: %s (%s)", model.description, _place(model, request.model))
        every = list_cases(request.source, len(model.members[0].plan.channels))
        basis = prediction_basis(model, tta=tta, step=request.step)
        journal = Journal(request.output, basis, request.probabilities, request.resume)
        kept = {entry.case: entry for entry in journal.kept(every[part])}
        cases = [case for case in every[part] if case.id not in kept]
        if request.device == "auto" and device.type == "cpu" and _is_for_cuda(model):
            log.warning("Made for CUDA, and there is no CUDA device here: predicting on the CPU")
        room = None
        if limit_gib is not None:
            room = room_gib(limit_gib, model, cases, probabilities=request.probabilities)
        elif device.type == "cpu":
            handle_freed_memory(Freed.KEPT)
        if not request.resume:
            journal.take_over(cases)
        report = predict_ensemble(
            model,
            cases,
            request.output,
            tta=tta,
            step=request.step,
            max_memory_gib=room,
            probabilities=request.probabilities,
            workers=default_workers(request.workers),
            journal=journal,
        )
        finished = {*kept, *report.done}
        journal.remove_previous([case for case in every[part] if case.id in finished])
        journal.save_quality(every)
    former = tuple(entry.quality for entry in kept.values() if entry.quality is not None)
    return replace(report, quality=(*former, *report.quality), kept=tuple(kept))


def _refuse_output(source: Path, output: Path) -> None:
    """Refuse a file, and the folder of the images: label maps there would be images next time."""
    from selfseg.io.images import image_ending

    if source.is_dir() and output.resolve() == source.resolve():
        raise SelfSegError(
            f"-o {output}: is the folder of the images", remedy="Give a folder of its own."
        )
    if image_ending(output) and not output.is_dir():
        raise SelfSegError(
            f"-o {output}: is written as a folder, but looks like a file",
            remedy="Give a folder; the label map in it is named after the image.",
        )


def _place(model: Ensemble, asked: Path) -> Path:
    """Return where a model lies: the file that was given, or the folder that was found."""
    return asked if asked.is_file() else model.members[0].folder


def _is_for_cuda(model: Ensemble) -> bool:
    return any(member.plan.budget.device == "cuda" for member in model.members)


def select_models(dataset: str, workspace: Path, request: SelectRequest) -> Selection:
    """Choose the best configuration or ensemble and its post-processing; write selection.json.

    Held-out predictions that are missing (a fold whose validation was interrupted) are made first.

    Raises:
        ModelError: Nothing is trained, or the folds were made of different cases.
    """
    from selfseg.selection.candidates import compare
    from selfseg.selection.scoring import Measure
    from selfseg.selection.select import select

    known = open_planned(planned_folder(workspace, dataset), dataset)
    selector = planning.find_selector(known.plan.planner)
    comparison = compare(known, selector.selection_rules())
    for fold in comparison.unvalidated:
        log.info("Predicting held-out cases of %s fold %s", fold.configuration, fold.fold)
        validate_fold(known, fold, device=request.device, workers=request.workers)
    if comparison.unvalidated:
        # The speed of the new predictions is known now.
        comparison = compare(known, selector.selection_rules())
    for note in comparison.notes:
        log.warning("%s", note)
    selection = select(
        comparison,
        known.plan.targets,
        tubular=known.plan.tubular,
        measure=Measure(request.metric, request.tolerance_mm),
        selector=selector,
        cache=known.folder.selection_scores,
        workers=default_workers(request.workers),
        crf=known.plan.crf,
    )
    serial.save(selection, known.folder.selection)
    return selection


def evaluate_predictions(
    predictions: Path,
    references: Path,
    *,
    output: Path | None = None,
    tolerances: Sequence[str] = (),
    only_predicted: bool = False,
    further: Further | None = None,
    workers: int | None = None,
) -> MetricsTable:
    """Score label maps against references; write `output`.json and `output`.csv if wanted."""
    from selfseg.evaluation.evaluate import evaluate_folders
    from selfseg.evaluation.further import NOTHING_FURTHER
    from selfseg.evaluation.table import write_table

    table = evaluate_folders(
        predictions,
        references,
        tolerances=parse_tolerances(tolerances),
        only_predicted=only_predicted,
        further=further or NOTHING_FURTHER,
        workers=default_workers(workers),
    )
    if output is not None:
        write_table(table, output)
    return table
