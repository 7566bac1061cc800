"""Predict a fold's validation cases as in real use, keep their probabilities, and score them."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.execution.locks import held
from selfseg.execution.processes import default_workers
from selfseg.inference.trained import PlannedDataset
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File
from selfseg.records.metrics import CaseScores, MetricsTable
from selfseg.records.selection import ValidationTiming
from selfseg.training.job import TrainingJob

log = logging.getLogger(__name__)


def validate(job: TrainingJob, known: PlannedDataset) -> MetricsTable | None:
    """Return the scores of the fold's validation cases; None if it has none.

    Predictions, compact probabilities and scores are written to `validation/`. What is there is
    not made again, unless it belongs to other weights or files.

    Raises:
        DeviceError: Another process trains or validates this fold.
    """
    if not job.validation_cases:
        return None
    with held(job.output.lock, f"fold {job.fold} of {job.configuration.name} is being validated"):
        return _validate(job, known)


def _validate(job: TrainingJob, known: PlannedDataset) -> MetricsTable:
    from selfseg.evaluation.table import write_table

    dataset, stored = known.dataset, job.output.scores
    wanted = [case for case in dataset.cases if case.id in job.validation_cases]
    cases = [absolute_case(case, Path(dataset.root)) for case in wanted]
    basis = known.validation_basis(job.configuration, job.fold, job.validation_cases)
    former = serial.load(MetricsTable, stored) if stored.is_file() else None
    if former is not None and former.basis != basis:
        log.info("Validating again: the validation cases or the weights have changed")
        shutil.rmtree(job.output.validation)
        former = None
    workers = default_workers(job.workers)
    if former is None:
        _predict(job, cases, workers)
        scores = _score(cases, job.output.validation, dataset, workers)
        write_table(scores.model_copy(update={"basis": basis}), stored)
        return serial.load(MetricsTable, stored)
    lost = [case for case in cases if not _is_predicted(job, case)]
    if lost:
        _predict(job, lost, workers)
    return former


def _is_predicted(job: TrainingJob, case: Case) -> bool:
    from selfseg.inference.export import label_map_path

    label_map = label_map_path(job.output.validation, case)
    return label_map.is_file() and job.output.case_probabilities(case.id).is_file()


def _predict(job: TrainingJob, cases: list[Case], workers: int) -> None:
    """Write label maps and compact probabilities of cases that this fold was not trained on."""
    from selfseg.inference.predictor import load_model, predict_cases

    model = load_model(
        job.output.path.parents[2],
        configuration=job.configuration.name,
        folds=[job.fold],
        device=job.device,
    )
    started_s = time.perf_counter()
    report = predict_cases(
        model,
        cases,
        job.output.validation,
        workers=workers,
        compact=job.output.probabilities,
        previous=job.previous_maps,
    )
    if report.failed:
        listing = "; ".join(f"{case}: {message}" for case, message in report.failed)
        raise SelfSegError(f"validation cases failed: {listing}", remedy="Mend these files.")
    taken_s = time.perf_counter() - started_s
    serial.save(ValidationTiming(cases=len(cases), seconds=taken_s), job.output.timing)


def _score(cases: list[Case], folder: Path, dataset: Dataset, workers: int) -> MetricsTable:
    from selfseg.evaluation.evaluate import Pair, score_files
    from selfseg.evaluation.table import metrics_table
    from selfseg.execution.processes import map_parallel
    from selfseg.inference.export import label_map_path

    pairs = [
        Pair(
            case.id,
            label_map_path(folder, case),
            Path(case.reference.path),
            dataset.targets,
        )
        for case in cases
        if case.reference is not None
    ]
    results = map_parallel(score_files, pairs, workers=workers, label="Scoring")
    for result in results:
        if not isinstance(result, CaseScores):
            raise result
    scored = [result for result in results if isinstance(result, CaseScores)]
    return metrics_table(scored, dataset.targets.names)


def absolute_case(case: Case, root: Path) -> Case:
    """Return a case whose files have absolute paths."""

    def resolve(file: File) -> File:
        return file.model_copy(update={"path": str(root / file.path)})

    reference = case.reference and resolve(case.reference)
    images = tuple(resolve(file) for file in case.images)
    return case.model_copy(update={"images": images, "reference": reference})
