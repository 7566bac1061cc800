"""Apply a classifier to new cases, and judge probabilities by labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfseg.classification.evaluator import needed_features, probabilities
from selfseg.classification.files import Prediction
from selfseg.classification.kinds import measure_regions
from selfseg.classification.labels import Labels
from selfseg.classification.region_files import find_files
from selfseg.classification.regions import RegionFeatures
from selfseg.classification.statistics import classification_scores
from selfseg.errors import DatasetError
from selfseg.radiomics.mirp_features import require_mirp
from selfseg.records.classification import (
    ClassificationPlan,
    ClassificationScores,
    ClassifierModel,
    Uncertainty,
)

if TYPE_CHECKING:
    from selfseg.inference.model import Model


def classify_cases(
    model: ClassifierModel,
    images: Path,
    masks: Sequence[Path],
    *,
    network: Model | None = None,
    workers: int,
) -> tuple[Prediction, ...]:
    """Return the probability of every region; a case without one has a line without numbers.

    Raises:
        DatasetError: Files that do not fit; all complaints.
        SelfSegError: The classifier needs features that mirp computes, and it is not installed.
    """
    plan = needed_plan(model)
    require_mirp(plan.radiomics.further)
    files = find_files(masks, images, model.region, model.unit)
    measured = measure_regions(
        files, plan, model.features, network, contours=None, seed=0, workers=workers
    )
    found = classify_regions(model, measured)
    there = {item.case for item in found}
    empty = (case.id for case in files if case.id not in there)
    nothing = [Prediction(case, None, model.positive, None, None) for case in empty]
    return tuple(sorted([*found, *nothing], key=lambda item: (item.case, item.lesion or 0)))


def needed_plan(model: ClassifierModel) -> ClassificationPlan:
    """Return the plan with those further families only that the classifier has features of."""
    names = needed_features(model.fitted)
    radiomics = model.plan.radiomics
    further = tuple(
        family
        for family in radiomics.further
        if any(name.startswith(f"{family}_") for name in names)
    )
    radiomics = radiomics.model_copy(update={"further": further})
    return model.plan.model_copy(update={"radiomics": radiomics})


def classify_regions(
    model: ClassifierModel, measured: Sequence[RegionFeatures]
) -> list[Prediction]:
    """Return the probability of regions whose features are known."""
    if not measured:
        return []
    names = needed_features(model.fitted)
    values = np.array([[region.values[name] for name in names] for region in measured])
    return [
        Prediction(
            case=region.case,
            lesion=region.lesion,
            positive=model.positive,
            probability=float(probability),
            called=bool(probability >= model.fitted.threshold),
        )
        for region, probability in zip(
            measured, probabilities(model.fitted, names, values), strict=True
        )
    ]


def judge(predictions: Sequence[Prediction], labels: Labels, *, seed: int) -> ClassificationScores:
    """Compare probabilities with labels; labeled regions without a probability are only named.

    Raises:
        DatasetError: They do not speak of the same cases or class, or one class is left.
    """
    classes = sorted({item.positive for item in predictions})
    if classes != [labels.positive]:
        raise DatasetError(
            f"probabilities of {', '.join(classes)}, but {labels.positive} is the positive class",
            remedy="Name the class that the probabilities are of with --positive.",
        )
    known = {
        (item.case, item.lesion): (item.probability, item.called)
        for item in predictions
        if item.probability is not None and item.called is not None
    }
    rows = [row for row in labels.rows if (row.case, row.lesion) in known]
    positives = np.array([row.positive for row in rows], dtype=bool)
    if not positives.any() or positives.all():
        raise DatasetError(
            f"{len(rows)} labeled regions have a probability, of one class at most",
            remedy="Give labels of the predicted cases, by the same names (and lesion numbers).",
        )
    found = [known[row.case, row.lesion] for row in rows]
    return classification_scores(
        np.array([probability for probability, _ in found]),
        np.array([called for _, called in found], dtype=bool),
        positives,
        np.array([row.group for row in rows]),
        uncertainty=Uncertainty(),  # the usual one: probabilities come without a plan
        seed=seed,
        missing=tuple(row.name for row in labels.rows if (row.case, row.lesion) not in known),
    )
