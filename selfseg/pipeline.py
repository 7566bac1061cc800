"""The commands as functions: each one reads records, runs stages in a row, writes records."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg import planning
from selfseg.budget import detect_budget, parse_gib
from selfseg.errors import PlanError, RecordError, SelfSegError
from selfseg.execution.processes import default_workers
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.records.selection import Selection, SelectionMetric
from selfseg.workspace import DatasetFolder, dataset_folder, planned_folder

if TYPE_CHECKING:
    from selfseg.inference.predictor import PredictionReport
    from selfseg.selection.candidates import Comparison

log = logging.getLogger(__name__)

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Options of `plan`; `cases` is a file with one case id a line."""

    planner: str = "default"
    memory: str | None = None
    device: str = "auto"
    cases: Path | None = None
    settings: tuple[str, ...] = ()
    preprocess: bool = True
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What `plan` made, and where."""

    folder: DatasetFolder
    dataset: Dataset
    fingerprint: Fingerprint
    plan: Plan
    splits: Splits


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Options of `train`."""

    configuration: str
    fold: str
    epochs: int | None = None
    steps_per_epoch: int | None = None
    time_s: float | None = None
    restart: bool = False
    device: str = "auto"
    workers: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained fold, where it lies, and the scores of its validation cases (if it has any)."""

    fold: TrainedFold
    folder: Path
    scores: MetricsTable | None


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Options of `predict`; `model` is a model folder, a dataset folder or a workspace."""

    source: Path
    output: Path
    model: Path
    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    tta: bool | None = None
    probabilities: bool = False
    max_memory: str | None = None
    step: float | None = None
    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class SelectRequest:
    """Options of `select`; the tolerance is that of the surface Dice."""

    metric: SelectionMetric = "dice"
    tolerance_mm: float = 1.0
    planner: str = "default"
    device: str = "auto"
    workers: int | None = None


def plan_dataset(source: str, workspace: Path, request: PlanRequest) -> PlanResult:
    """Check and measure a dataset, decide everything, and prepare the training arrays.

    Args:
        source: Data folder, or the name of a dataset planned before.
        workspace: Root of the workspace.
        request: Options.

    Raises:
        DatasetError: All complaints about the dataset at once; nothing is written then.
        PlanError: A setting does not fit the plan.
    """
    from selfseg.fingerprinting.extract import inspect
    from selfseg.io.formats import read_dataset

    workers = default_workers(request.workers)
    root = _data_root(source, workspace)
    described = read_dataset(root, only=_read_case_list(request.cases))
    folder = dataset_folder(workspace, described.name)
    dataset, fingerprint = inspect(described, workers=workers, known=_known_facts(folder))
    budget = detect_budget(request.memory, request.device)
    plan = planning.make_plan(dataset, fingerprint, budget, planner=request.planner)
    plan = planning.edit_plan(plan, request.settings)
    planning.check_plan(plan)
    splits = _fitting_splits(folder, dataset) or planning.make_splits(
        dataset, planner=request.planner
    )
    _keep_former_plan(folder, plan)
    serial.save(dataset, folder.dataset)
    serial.save(fingerprint, folder.fingerprint)
    serial.save(splits, folder.splits)
    serial.save(plan, folder.plan)
    result = PlanResult(
        folder=folder, dataset=dataset, fingerprint=fingerprint, plan=plan, splits=splits
    )
    if request.preprocess:
        for configuration in _distinct_preprocessing(plan.configurations):
            prepare(folder, dataset, configuration, workers=workers)
    return result


def prepare(
    folder: DatasetFolder, dataset: Dataset, configuration: Configuration, *, workers: int
) -> Path:
    """Make the training arrays of a configuration where they are missing; return their folder."""
    from selfseg.preprocessing.dataset import preprocess

    arrays = folder.preprocessed(configuration.preprocessing)
    preprocess(
        dataset, configuration.preprocessing, arrays, patch=configuration.patch, workers=workers
    )
    return arrays


def train_fold(dataset: str, workspace: Path, request: TrainRequest) -> TrainResult:
    """Train one fold of one configuration, or go on with it; predict and score its validation.

    Raises:
        SelfSegError: No such plan, configuration or fold; a checkpoint that does not fit.
    """
    folder = planned_folder(workspace, dataset)
    plan = serial.load(Plan, folder.plan)
    planning.check_plan(plan)
    configuration = find_configuration(plan, request.configuration)
    known = serial.load(Dataset, folder.dataset)
    train_cases, validation_cases = _fold_cases(known, folder, request.fold)
    workers = default_workers(request.workers)
    arrays = prepare(folder, known, configuration, workers=workers)

    from selfseg.networks.device import select_device
    from selfseg.training.train import TrainingJob, train
    from selfseg.training.validate import validate

    job = TrainingJob(
        plan=plan,
        configuration=configuration,
        fold=request.fold,
        train_cases=train_cases,
        validation_cases=validation_cases,
        data=arrays,
        output=folder.fold(configuration.name, request.fold),
        epochs=request.epochs,
        steps_per_epoch=request.steps_per_epoch,
        time_s=request.time_s,
        seed=request.seed,
        device=select_device(request.device),
        workers=request.workers,
        restart=request.restart,
    )
    trained = train(job)
    scores = validate(job, known)
    return TrainResult(fold=trained, folder=job.output.path, scores=scores)


def predict_images(request: PredictRequest) -> PredictionReport:
    """Segment a folder or one image; broken images are reported and the others done.

    The model is what selection.json chose, unless a configuration or folds are asked for.

    Raises:
        ModelError: No usable model, or several without a choice.
        DatasetError: The input folder holds nothing that fits the model's channels.
    """
    from selfseg.inference.members import predict_ensemble
    from selfseg.inference.model import load_ensemble
    from selfseg.io.formats import list_cases
    from selfseg.networks.device import select_device

    model = load_ensemble(
        request.model,
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

    folder = planned_folder(workspace, dataset)
    plan = serial.load(Plan, folder.plan)
    planning.check_plan(plan)
    known = serial.load(Dataset, folder.dataset)
    comparison = compare(folder, plan, known)
    if _complete_validation(folder, plan, known, comparison, request):
        comparison = compare(folder, plan, known)  # their speed is known now
    for note in comparison.notes:
        log.warning("%s", note)
    selection = select(
        comparison,
        plan.targets,
        measure=Measure(request.metric, request.tolerance_mm),
        selector=planning.find_selector(request.planner),
        cache=folder.selection_scores,
        workers=default_workers(request.workers),
    )
    serial.save(selection, folder.selection)
    return selection


def _complete_validation(
    folder: DatasetFolder,
    plan: Plan,
    dataset: Dataset,
    comparison: Comparison,
    request: SelectRequest,
) -> bool:
    """Predict held-out cases whose probabilities are missing; tell whether there were any."""
    missing = {
        (item.name, fold)
        for item in comparison.trained
        for fold in comparison.folds
        for case in item.folds[fold].validation_cases
        if not folder.fold(item.name, fold).case_probabilities(case).is_file()
    }
    if not missing:
        return False

    from selfseg.networks.device import select_device
    from selfseg.training.train import TrainingJob
    from selfseg.training.validate import validate

    for item in comparison.trained:
        for fold in comparison.folds:
            if (item.name, fold) not in missing:
                continue
            log.info("Predicting held-out cases of %s fold %s", item.name, fold)
            job = TrainingJob(
                plan=plan,
                configuration=item.configuration,
                fold=fold,
                train_cases=item.folds[fold].train_cases,
                validation_cases=item.folds[fold].validation_cases,
                data=folder.preprocessed(item.configuration.preprocessing),
                output=folder.fold(item.name, fold),
                device=select_device(request.device),
                workers=request.workers,
            )
            validate(job, dataset)
    return True


def evaluate_predictions(
    predictions: Path,
    references: Path,
    *,
    output: Path | None = None,
    tolerances: Sequence[str] = (),
    workers: int | None = None,
) -> MetricsTable:
    """Score label maps against references; write `output`.json and `output`.csv if wanted."""
    from selfseg.evaluation.evaluate import evaluate_folders
    from selfseg.evaluation.table import write_table

    table = evaluate_folders(
        predictions,
        references,
        labels=None,
        tolerance_mm=_parse_tolerances(tolerances),
        workers=default_workers(workers),
    )
    if output is not None:
        write_table(table, output)
    return table


def find_configuration(plan: Plan, name: str) -> Configuration:
    """Return a configuration by name; PlanError lists those that exist."""
    for configuration in plan.configurations:
        if configuration.name == name:
            return configuration
    names = ", ".join(configuration.name for configuration in plan.configurations)
    raise PlanError(
        f"plan of {plan.dataset}: no configuration {name!r}", remedy=f"Choose one of: {names}."
    )


def parse_duration_s(text: str) -> float:
    """Return seconds for `90s`, `15m`, `2h` (a bare number is seconds)."""
    match = DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * SECONDS[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise SelfSegError(f"--time {text}: not a duration", remedy="Write 90s, 15m or 2h.")
    return seconds


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


def _read_case_list(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        ids = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise SelfSegError(
            f"{path}: cannot be read ({error})", remedy="Give a text file with one case id a line."
        ) from error
    if not ids:
        raise SelfSegError(f"{path}: names no case", remedy="Write one case id a line.")
    return ids


def _known_facts(folder: DatasetFolder) -> tuple[Dataset, Fingerprint] | None:
    if not (folder.dataset.is_file() and folder.fingerprint.is_file()):
        return None
    try:
        return serial.load(Dataset, folder.dataset), serial.load(Fingerprint, folder.fingerprint)
    except RecordError as error:
        log.warning("Measuring all cases again: %s", error.message)
        return None


def _fitting_splits(folder: DatasetFolder, dataset: Dataset) -> Splits | None:
    """Return the stored folds if they cover exactly these cases (they may be the user's own)."""
    if not folder.splits.is_file():
        return None
    splits = serial.load(Splits, folder.splits)
    covered = {case for fold in splits.folds for case in (*fold.train, *fold.validation)}
    if covered == {case.id for case in dataset.cases}:
        return splits
    log.warning("The cases have changed: new folds are made. Models of old folds do not compare.")
    return None


def _keep_former_plan(folder: DatasetFolder, plan: Plan) -> None:
    """Keep a plan that is about to be replaced by a different one: it may hold edits by hand."""
    if not folder.plan.is_file():
        return
    former = folder.plan.read_text(encoding="utf-8")
    if former != plan.model_dump_json(indent=1) + "\n":
        kept = folder.plan.with_name("plan.former.json")
        serial.write_text(former, kept)
        log.warning("The plan differs from the one that stood here; that is now %s", kept)


def _distinct_preprocessing(configurations: Sequence[Configuration]) -> Iterator[Configuration]:
    seen: set[str] = set()
    for configuration in configurations:
        key = serial.digest(configuration.preprocessing)
        if key not in seen:
            seen.add(key)
            yield configuration


def _fold_cases(
    dataset: Dataset, folder: DatasetFolder, fold: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if fold == "all":
        return tuple(case.id for case in dataset.cases), ()
    splits = serial.load(Splits, folder.splits)
    if fold.isdecimal() and int(fold) < len(splits.folds):
        chosen = splits.folds[int(fold)]
        return chosen.train, chosen.validation
    raise SelfSegError(
        f"fold {fold!r}: {folder.splits} has {len(splits.folds)} folds",
        remedy=f"Choose 0 to {len(splits.folds) - 1}, or 'all'.",
    )


def _parse_tolerances(settings: Sequence[str]) -> float | dict[str, float]:
    """Return one tolerance in mm, or one a label (`LABEL=MM`; `default` for the others)."""
    by_label: dict[str, float] = {"default": 1.0}
    for setting in settings:
        name, _, number = setting.rpartition("=")
        try:
            by_label[name or "default"] = float(number)
        except ValueError:
            raise SelfSegError(
                f"--tolerance {setting}: not a number of mm", remedy="Write 1.5 or LABEL=1.5."
            ) from None
    return by_label if len(by_label) > 1 else by_label["default"]
