"""Nested cross-validation by patient: everything that is fitted sees training patients only.

Outer folds give probabilities of held-out regions. Within the training part of each, inner folds
choose the candidate, calibrate its scores and set the threshold; features are chosen, standardized
and projected anew in every one of these fits.

Only the share of positives is that of all patients, in every fold: as a constant it ranks nobody.
A fold's own share would be lower the more positives it holds out, and probabilities of all folds
together would rank the classes the wrong way round (Parker et al., 2007,
doi:10.1186/1471-2105-8-326). Folds are balanced for the same reason.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from selfseg.classification.candidates import fit_calibration, fit_candidate, importances
from selfseg.classification.choice import Prepared, prepare_features, project
from selfseg.classification.evaluator import calibrated, probabilities, scores
from selfseg.classification.statistics import area_under_curve, youden_threshold
from selfseg.classification.table import Bools, FeatureTable, Floats, Rows, rarer_groups
from selfseg.errors import SelfSegError
from selfseg.execution.processes import map_parallel
from selfseg.records.classification import Candidate, ClassificationPlan, FittedClassifier

Split = tuple[Rows, Rows]  # training and held-out rows


@dataclass(frozen=True)
class OutOfFold:
    """What the models of the outer folds say of the regions they were not fitted on.

    Attributes:
        probabilities, called: (regions,); called positive by the threshold of their own fold.
        folds: (regions,) number of the outer fold that held a region out.
        chosen: In how many outer folds each feature was chosen.
        uninformed: Outer folds in which scores told nothing of the class.
    """

    probabilities: Floats
    called: Bools
    folds: Rows
    chosen: Counter[str]
    num_folds: int
    uninformed: int


@dataclass(frozen=True)
class _Fold:
    """One outer fold, to be computed by a process of its own."""

    id: str
    train: FeatureTable
    held_out: FeatureTable


def cross_validate(
    table: FeatureTable, plan: ClassificationPlan, *, seed: int, workers: int = 1
) -> OutOfFold:
    """Return out-of-fold probabilities of the whole procedure.

    Args:
        table: All labeled regions; at least two patients of each class.
        plan: The choices.
        seed: Of folds and forests; the same seed gives the same numbers.
        workers: Parallel processes.
    """
    splits = grouped_folds(table, plan.outer_folds, seed)
    jobs = [
        _Fold(f"fold {number}", table.take(train), table.take(held))
        for number, (train, held) in enumerate(splits)
    ]
    share = float(table.positives.mean())
    fit = functools.partial(_fit_and_apply, plan=plan, seed=seed, share=share)
    results = map_parallel(fit, jobs, workers=workers, label="cross-validating")
    probability = np.full(len(table.values), np.nan)
    threshold, folds = np.zeros(len(probability)), np.zeros(len(probability), np.intp)
    for number, ((_, held), (fitted, found)) in enumerate(zip(splits, results, strict=True)):
        probability[held], threshold[held], folds[held] = found, fitted.threshold, number
    chosen = Counter(name for fitted, _ in results for name in fitted.features)
    uninformed = sum(not fitted.calibration.informed for fitted, _ in results)
    called = probability >= threshold
    return OutOfFold(probability, called, folds, chosen, len(splits), uninformed)


def fit_classifier(
    table: FeatureTable, plan: ClassificationPlan, seed: int, share: float | None = None
) -> FittedClassifier:
    """Fit on some regions: inner folds choose the candidate, calibrate it and set the threshold.

    Args:
        table: Training regions.
        plan: The choices.
        seed: Of folds and forests.
        share: Of positives where probabilities are wanted. Default: that of the table.
    """
    if share is None:
        share = float(table.positives.mean())
    splits = grouped_folds(table, plan.inner_folds, seed + 1)
    prepared = [prepare_features(table.take(train), plan.selection, seed) for train, _ in splits]
    held_out = [
        _held_out_scores(candidate, table, splits, prepared, seed) for candidate in plan.candidates
    ]
    areas = [area_under_curve(found, table.positives) for found in held_out]
    best = int(np.argmax(areas))  # of equally good ones the first
    calibration = fit_calibration(held_out[best], table.positives, share)
    whole = prepare_features(table, plan.selection, seed)
    model = fit_candidate(plan.candidates[best], whole.standardized, table.positives, seed)
    return FittedClassifier(
        projection=whole.projection,
        features=whole.features,
        mean=tuple(whole.mean.tolist()),
        scale=tuple(whole.scale.tolist()),
        candidate=plan.candidates[best],
        model=model,
        calibration=calibration,
        threshold=youden_threshold(calibrated(held_out[best], calibration), table.positives),
        importances=tuple(importances(model, whole.standardized).tolist()),
    )


def grouped_folds(table: FeatureTable, folds: int, seed: int) -> list[Split]:
    """Return folds that keep patients whole and spread the classes as evenly as that allows.

    There are never more folds than patients with the rarer class: where each patient has regions of
    one class, and about as many, every fold holds out both. Where patients have regions of both
    classes a fold may hold out one class only; every training part has both.

    Raises:
        SelfSegError: A training part would have one class only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rarer = rarer_groups(table.positives, table.groups)
    splits: list[Split] = []
    if rarer >= 2:
        splitter = StratifiedGroupKFold(min(folds, rarer), shuffle=True, random_state=seed)
        splits = list(splitter.split(table.values, table.positives, table.groups))
    if not splits or any(len(np.unique(table.positives[train])) < 2 for train, _ in splits):
        raise SelfSegError(
            "a training part of the cross-validation has one class only",
            remedy="Label more patients of the rarer class, or try another --seed.",
        )
    return splits


def _fit_and_apply(
    job: _Fold, plan: ClassificationPlan, seed: int, share: float
) -> tuple[FittedClassifier, Floats]:
    """Return the classifier of one outer fold, without its trees, and what it says of the rest."""
    fitted = fit_classifier(job.train, plan, seed, share)
    return fitted, probabilities(fitted, job.held_out.names, job.held_out.values)


def _held_out_scores(
    candidate: Candidate,
    table: FeatureTable,
    splits: list[Split],
    prepared: list[Prepared],
    seed: int,
) -> Floats:
    """Return the score of each region by the inner model that was not fitted on it."""
    found = np.full(len(table.values), np.nan)
    for (train, held), seen in zip(splits, prepared, strict=True):
        model = fit_candidate(candidate, seen.standardized, table.positives[train], seed)
        names, values, _ = project(table.take(held), seen.projection)
        columns = [names.index(name) for name in seen.features]
        found[held] = scores(model, (values[:, columns] - seen.mean) / seen.scale)
    return found
