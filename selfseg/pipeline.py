"""The commands as functions: each one reads records, runs stages in a row, writes records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg import planning
from selfseg.adopting import adopt_model, judge_model, open_model
from selfseg.auxiliary import borrow
from selfseg.budget import detect_budget, parse_gib
from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.processes import default_workers
from selfseg.folds import open_planned, prepare_all, training_job, validate_fold
from selfseg.plan_checks import MEND_PLAN, check_plan
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Plan
from selfseg.records.selection import Selection
from selfseg.records.transfer import TransferReport
from selfseg.requests import (
    PlanRequest,
    PredictRequest,
    SelectRequest,
    TrainRequest,
    parse_tolerances,
    read_case_list,
)
from selfseg.workspace import DatasetFolder, dataset_folder, keep_former, planned_folder

if TYPE_CHECKING:
    from selfseg.evaluation.further import Further
    from selfseg.inference.predictor import PredictionReport
    from selfseg.training.transfer import SourceModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What `plan` made, and where."""

    folder: DatasetFolder
    dataset: Dataset
    fingerprint: Fingerprint
    plan: Plan
    splits: Splits


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained fold, where it lies, and the scores of its validation cases (if it has any).

    `transfer` tells what came from the model that it started from (if it did).
    """

    fold: TrainedFold
    folder: Path
    scores: MetricsTable | None
    transfer: TransferReport | None = None


def plan_dataset(source: str, workspace: Path, request: PlanRequest) -> PlanResult:
    """Check and measure a dataset, decide everything, and prepare the training arrays.

    Args:
        source: Data folder, or the name of a dataset planned before.
        workspace: Root of the workspace.
        request: Options.

    Raises:
        DatasetError: All complaints about the dataset at once; nothing is written then.
        PlanError: A setting does not fit the plan, or no plan fits the model to start from.
        ModelError: There is no such model to start from.
    """
    from selfseg.fingerprinting.extract import inspect
    from selfseg.io.formats import read_dataset

    workers = default_workers(request.workers)
    root = _data_root(source, workspace)
    budget = detect_budget(request.memory, request.device)  # bad options are told first
    planning.find_planner(request.planner)
    model = None if request.start is None else open_model(request.start)
    described = read_dataset(root, only=read_case_list(request.cases))
    folder = dataset_folder(workspace, described.name)
    folder.refuse_namesake(root)
    dataset, fingerprint = inspect(described, workers=workers, known=_known_facts(folder))
    budget = detect_budget(request.memory, request.device)
    made = planning.make_plan(dataset, fingerprint, budget, planner=request.planner)
    if model is not None:
        made = _fit_to_model(made, model, dataset, fingerprint, request)
    auxiliary = _read_auxiliary(request, workspace, workers=workers)
    if auxiliary is not None:
        made = borrow(made, dataset, auxiliary, planner=request.planner)
    plan = planning.edit_plan(made, request.settings)
    given = "Give other values with --set; nothing was written."
    check_plan(plan, remedy=given if request.settings else MEND_PLAN)
    plan = planning.update_memory(plan, made, planner=request.planner)
    splits = _splits(folder, dataset, fingerprint, request)
    keep_former(folder.plan, serial.text(plan))
    keep_former(folder.splits, serial.text(splits))
    serial.save(dataset, folder.dataset)
    serial.save(fingerprint, folder.fingerprint)
    serial.save(splits, folder.splits)
    if auxiliary is not None:
        serial.save(auxiliary, folder.auxiliary)
    serial.save(plan, folder.plan)
    if request.preprocess:
        prepare_all(folder, dataset, plan.configurations, workers=workers)
    return PlanResult(
        folder=folder, dataset=dataset, fingerprint=fingerprint, plan=plan, splits=splits
    )


def train_fold(dataset: str, workspace: Path, request: TrainRequest) -> TrainResult:
    """Train one fold of one configuration, or go on with it; predict and score its validation.

    Raises:
        SelfSegError: No such plan, configuration or fold; a checkpoint that does not fit.
    """
    from selfseg.training.train import train
    from selfseg.training.validate import validate

    known = open_planned(planned_folder(workspace, dataset))
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
        ModelError: No usable model, or several without a choice.
        DatasetError: The input folder holds nothing that fits the model's channels.
    """
    from selfseg.io.images import image_ending

    if image_ending(request.output) and not request.output.is_dir():
        raise SelfSegError(
            f"-o {request.output}: is written as a folder, but looks like a file",
            remedy="Give a folder; the label map in it is named after the image.",
        )

    from selfseg.bundles import opened_model
    from selfseg.inference.members import predict_ensemble
    from selfseg.inference.model import load_ensemble
    from selfseg.io.formats import list_cases
    from selfseg.networks.device import select_device

    with opened_model(request.model) as folder:
        model = load_ensemble(
            folder,
            configuration=request.configuration,
            folds=request.folds,
            device=select_device(request.device),
        )
        log.info("Model: %s", model.description)
        cases = list_cases(request.source, len(model.members[0].plan.channels))
        return predict_ensemble(
            model,
            cases,
            request.output,
            tta=True if request.tta is None else request.tta,
            step=request.step,
            max_memory_gib=None if request.max_memory is None else parse_gib(request.max_memory),
            probabilities=request.probabilities,
            workers=default_workers(request.workers),
        )


def select_models(dataset: str, workspace: Path, request: SelectRequest) -> Selection:
    """Choose the best configuration or ensemble and its post-processing; write selection.json.

    Held-out predictions that are missing (a fold whose validation was interrupted) are made first.

    Raises:
        ModelError: Nothing is trained, or the folds were made of different cases.
    """
    from selfseg.selection.candidates import compare
    from selfseg.selection.scoring import Measure
    from selfseg.selection.select import select

    known = open_planned(planned_folder(workspace, dataset))
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


def _fit_to_model(
    plan: Plan,
    model: SourceModel,
    dataset: Dataset,
    fingerprint: Fingerprint,
    request: PlanRequest,
) -> Plan:
    """Return a plan that fits a model to start from, with what a trial of the model says."""
    made = adopt_model(plan, model.facts, planner=request.planner)
    verdict = judge_model(
        model, dataset, fingerprint, planner=request.planner, device=request.device
    )
    return made.model_copy(update={"decisions": (verdict, *made.decisions)})


def _read_auxiliary(request: PlanRequest, workspace: Path, *, workers: int) -> Dataset | None:
    """Read and check the second data set that training borrows from; None without one."""
    from selfseg.fingerprinting.extract import inspect
    from selfseg.io.formats import read_dataset

    if request.auxiliary is None:
        return None
    described = read_dataset(_data_root(request.auxiliary, workspace))
    known = _known_facts(dataset_folder(workspace, described.name))
    return inspect(described, workers=workers, known=known)[0]


def _data_root(source: str, workspace: Path) -> Path:
    if Path(source).is_dir():
        return Path(source)
    known = dataset_folder(workspace, source).dataset
    if known.is_file():
        return Path(serial.load(Dataset, known).root)
    raise SelfSegError(
        f"{source}: neither a folder nor the name of a data set in workspace {workspace}",
        remedy="Give the folder that holds dataset.json.",
    )


def _known_facts(folder: DatasetFolder) -> tuple[Dataset, Fingerprint] | None:
    if not (folder.dataset.is_file() and folder.fingerprint.is_file()):
        return None
    try:
        return serial.load(Dataset, folder.dataset), serial.load(Fingerprint, folder.fingerprint)
    except RecordError as error:
        log.warning("Measuring all cases again: %s", error.message)
        return None


def _splits(
    folder: DatasetFolder, dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest
) -> Splits:
    """Return the user's folds beside the data; else those stored here; else the planner's."""
    from selfseg.io.splits import find_splits, read_splits

    given = find_splits(Path(dataset.root))
    if given is not None:
        return read_splits(given, dataset, part=request.cases is not None)
    stored = _fitting_splits(folder, dataset)
    return stored or planning.make_splits(dataset, fingerprint, planner=request.planner)


def _fitting_splits(folder: DatasetFolder, dataset: Dataset) -> Splits | None:
    """Return the stored folds if they cover exactly these cases (they may be the user's own)."""
    from selfseg.io.splits import check_folds

    if not folder.splits.is_file():
        return None
    splits = serial.load(Splits, folder.splits)
    covered = {case for fold in splits.folds for case in (*fold.train, *fold.validation)}
    if covered == {case.id for case in dataset.cases}:
        check_folds(splits.folds, dataset, folder.splits)
        return splits
    log.warning("The cases have changed: new folds are made. Models of old folds do not compare.")
    return None
