"""The commands as functions: each one reads records, runs stages in a row, writes records."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
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
from selfseg.records.selection import Selection
from selfseg.requests import (
    PlanRequest,
    PredictRequest,
    SelectRequest,
    TrainRequest,
    parse_tolerances,
    read_case_list,
)
from selfseg.workspace import DatasetFolder, dataset_folder, planned_folder

if TYPE_CHECKING:
    from selfseg.evaluation.further import Further
    from selfseg.inference.predictor import PredictionReport
    from selfseg.loading.patches import PreviousStage
    from selfseg.selection.candidates import Comparison

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
    """A trained fold, where it lies, and the scores of its validation cases (if it has any)."""

    fold: TrainedFold
    folder: Path
    scores: MetricsTable | None


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
    budget = detect_budget(request.memory, request.device)  # bad options are told first
    planning.find_planner(request.planner)
    described = read_dataset(root, only=read_case_list(request.cases))
    folder = dataset_folder(workspace, described.name)
    _refuse_namesake(folder, root)
    dataset, fingerprint = inspect(described, workers=workers, known=_known_facts(folder))
    budget = detect_budget(request.memory, request.device)
    made = planning.make_plan(dataset, fingerprint, budget, planner=request.planner)
    plan = planning.edit_plan(made, request.settings)
    planning.check_plan(plan)
    plan = planning.update_memory(plan, made, planner=request.planner)
    splits = _splits(folder, dataset, fingerprint, request)
    _keep_former(folder.plan, serial.text(plan))
    _keep_former(folder.splits, serial.text(splits))
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


def previous_maps(
    folder: DatasetFolder,
    plan: Plan,
    configuration: Configuration,
    dataset: Dataset,
    cases: Sequence[str],
) -> dict[str, Path] | None:
    """Return the previous stage's out-of-fold label map of each case; None outside a cascade.

    Raises:
        SelfSegError: Some are not there; names the folds to train.
    """
    if configuration.previous_stage is None:
        return None
    from selfseg.training.out_of_fold import out_of_fold_maps

    stage = find_configuration(plan, configuration.previous_stage)
    splits = serial.load(Splits, folder.splits)
    return out_of_fold_maps(
        folder, plan, stage, dataset, splits, cases, data_digest=partial(files_digest, dataset)
    )


def prepare_previous(
    folder: DatasetFolder,
    plan: Plan,
    configuration: Configuration,
    maps: Mapping[str, Path] | None,
    *,
    workers: int,
) -> PreviousStage | None:
    """Bring label maps of the previous stage to a configuration's grid where that is not done."""
    if configuration.previous_stage is None or maps is None:
        return None
    from selfseg.loading.patches import PreviousStage
    from selfseg.preprocessing.previous import preprocess_previous

    target = folder.previous_stage(configuration.preprocessing, configuration.previous_stage)
    preprocess_previous(
        maps,
        folder.preprocessed(configuration.preprocessing),
        target,
        options=configuration.preprocessing,
        targets=plan.targets,
        patch=configuration.patch,
        workers=workers,
    )
    return PreviousStage(target, len(plan.labels))


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
    maps = previous_maps(folder, plan, configuration, known, (*train_cases, *validation_cases))
    arrays = prepare(folder, known, configuration, workers=workers)
    previous = prepare_previous(folder, plan, configuration, maps, workers=workers)

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
        data_digest=files_digest(known, train_cases),
        output=folder.fold(configuration.name, request.fold),
        epochs=request.epochs,
        steps_per_epoch=request.steps_per_epoch,
        time_s=request.time_s,
        seed=request.seed,
        device=select_device(request.device),
        workers=request.workers,
        restart=request.restart,
        previous=previous,
        previous_maps=maps,
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
    from selfseg.io.images import image_ending

    if image_ending(request.output) and not request.output.is_dir():
        raise SelfSegError(
            f"-o {request.output}: is written as a folder, but looks like a file",
            remedy="Give a folder; the label map in it is named after the image.",
        )

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
                previous_maps=previous_maps(
                    folder,
                    plan,
                    item.configuration,
                    dataset,
                    item.folds[fold].validation_cases,
                ),
            )
            validate(job, dataset)
    return True


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


def files_digest(dataset: Dataset, cases: Sequence[str]) -> str:
    """Return a digest of what is read of some cases: their files and the values of the labels."""
    wanted = set(cases)
    content = [
        (case.id, [file.digest for file in (*case.images, case.reference) if file is not None])
        for case in dataset.cases
        if case.id in wanted
    ]
    return hashlib.sha256(repr((dataset.targets, content)).encode()).hexdigest()[:16]


def find_configuration(plan: Plan, name: str) -> Configuration:
    """Return a configuration by name; PlanError lists those that exist."""
    for configuration in plan.configurations:
        if configuration.name == name:
            return configuration
    names = ", ".join(configuration.name for configuration in plan.configurations)
    raise PlanError(
        f"plan of {plan.dataset}: no configuration {name!r}", remedy=f"Choose one of: {names}."
    )


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


def _refuse_namesake(folder: DatasetFolder, root: Path) -> None:
    """Refuse to overwrite another dataset of the same name; one that was moved is the same."""
    if not folder.dataset.is_file():
        return
    try:
        former = Path(serial.load(Dataset, folder.dataset).root)
    except RecordError:
        return
    if former.is_dir() and former.resolve() != root.resolve():
        raise SelfSegError(
            f"{folder.path} holds another dataset of this name, read from {former}",
            remedy="Give one of them another 'name' in its dataset.json, or use another "
            "--workspace.",
        )


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


def _keep_former(path: Path, text: str) -> None:
    """Keep a file that is about to be replaced by a different one: it may hold edits by hand."""
    if not path.is_file():
        return
    former = path.read_text(encoding="utf-8")
    if former == text:
        return
    names = (path.with_name(f"{path.stem}.former-{n}{path.suffix}") for n in count(1))
    kept = next(name for name in names if not name.exists())
    serial.write_text(former, kept)
    log.warning("%s differs from the one that stood there, which is now %s", path, kept)


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
