"""Train a classifier: labels and masks to features, nested validation, a final fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfseg import planning
from selfseg.classification.kinds import measure_regions
from selfseg.classification.labels import LabelRow, Labels
from selfseg.classification.nested import OutOfFold, cross_validate, fit_classifier
from selfseg.classification.region_files import RegionFiles, find_files
from selfseg.classification.regions import (
    FoundRegion,
    RegionFeatures,
    find_regions,
)
from selfseg.classification.statistics import bootstrap_area, classification_scores
from selfseg.classification.table import FeatureTable, rarer_groups
from selfseg.errors import DatasetError
from selfseg.io.description import DESCRIPTION, read_description
from selfseg.radiomics.mirp_features import mirp_version
from selfseg.records.classification import (
    ClassificationFacts,
    ClassificationScores,
    ClassifierModel,
    DeepSource,
    FeatureKind,
    RegionOfInterest,
    Uncertainty,
)
from selfseg.records.estimate import Estimate
from selfseg.words import counted

if TYPE_CHECKING:
    from selfseg.inference.model import Model

# Of each class: with four, every outer fold holds one out, and of the three left two are in every
# training part of the inner folds. With fewer, what is chosen there would be chance.
FEWEST_PATIENTS = 4
Key = tuple[str, int | None]


@dataclass(frozen=True)
class Training:
    """What a training gives.

    Attributes:
        model: For prediction.
        rows: Labeled regions that were there, in the order of the table.
        table: Their features.
        out_of_fold: Probabilities of the outer folds.
    """

    model: ClassifierModel
    rows: tuple[LabelRow, ...]
    table: FeatureTable
    out_of_fold: OutOfFold


@dataclass(frozen=True)
class Source:
    """What is classified, and where it lies."""

    images: Path
    masks: tuple[Path, ...]
    labels: Labels
    region: RegionOfInterest
    features: FeatureKind = "radiomics"
    network: Model | None = None


def train_classifier(source: Source, *, planner: str, seed: int, workers: int) -> Training:
    """Decide, compute features, validate the whole procedure by patient, fit on everything.

    Raises:
        DatasetError: Too few patients, files that do not fit; all complaints.
    """
    files = _labeled_files(source)
    found = find_regions(files, workers=workers)
    rows = _present(source.labels, found)
    check_patients(source.labels, rows)
    names = channel_names(source.images, found[0].num_channels)
    plan = planning.find_classifier(planner).decide_classification(_facts(rows, found, names))
    measured = measure_regions(
        files,
        plan,
        source.features,
        source.network,
        contours=plan.selection,
        seed=seed,
        workers=workers,
    )
    table = make_table(rows, {(item.case, item.lesion): item for item in measured})
    held_out = cross_validate(table, plan, seed=seed, workers=workers)
    model = ClassifierModel(
        positive=source.labels.positive,
        negative=source.labels.negative,
        unit=source.labels.unit,
        region=source.region,
        features=source.features,
        network=_deep_source(source.network),
        plan=plan,
        fitted=fit_classifier(table, plan, seed),
        scores=_scores(source.labels, rows, table, held_out, plan.uncertainty, seed),
        volume_auc=_volume_area(rows, found, table, plan.uncertainty, seed),
    )
    return Training(model, rows, table, held_out)


def _scores(
    labels: Labels,
    rows: Sequence[LabelRow],
    table: FeatureTable,
    held_out: OutOfFold,
    uncertainty: Uncertainty,
    seed: int,
) -> ClassificationScores:
    """Return the scores of out-of-fold probabilities."""
    return classification_scores(
        held_out.probabilities,
        held_out.called,
        table.positives,
        table.groups,
        uncertainty=uncertainty,
        seed=seed,
        missing=_missing(labels, rows),
    )


def _volume_area(
    rows: Sequence[LabelRow],
    found: Sequence[FoundRegion],
    table: FeatureTable,
    uncertainty: Uncertainty,
    seed: int,
) -> Estimate:
    """Return the AUC of the volume alone; nothing is fitted for it."""
    volumes = {(item.case, item.lesion): item.volume_mm3 for item in found}
    return bootstrap_area(
        np.array([volumes[row.case, row.lesion] for row in rows]),
        table.positives,
        table.groups,
        replicates=uncertainty.replicates,
        confidence=uncertainty.confidence,
        seed=seed,
    )


def make_table(rows: Sequence[LabelRow], measured: Mapping[Key, RegionFeatures]) -> FeatureTable:
    """Return the features of labeled regions as arrays."""
    regions = [measured[row.case, row.lesion] for row in rows]
    names = tuple(regions[0].values)
    readings = [
        [[reading[name] for name in names] for reading in region.readings] for region in regions
    ]
    shape = (len(regions), len(regions[0].readings), len(names))
    return FeatureTable(
        names=names,
        values=np.array([[region.values[name] for name in names] for region in regions]),
        readings=np.array(readings, dtype=np.float64).reshape(shape),
        positives=np.array([row.positive for row in rows]),
        groups=np.array([row.group for row in rows]),
    )


def channel_names(images: Path, count: int) -> tuple[str, ...]:
    """Return the names of the channels from a dataset.json beside the images; empty if unknown."""
    for folder in (images, images.resolve().parent):
        if (folder / DESCRIPTION).is_file():
            names = read_description(folder).channels
            if len(names) == count:
                return names
    return ("",) * count


def check_patients(labels: Labels, rows: Sequence[LabelRow]) -> None:
    """Refuse what cannot be validated by patient.

    Raises:
        DatasetError: Too few patients of a class.
    """
    complaints = []
    for name, positive in ((labels.positive, True), (labels.negative, False)):
        patients = {row.group for row in rows if row.positive is positive}
        if len(patients) < FEWEST_PATIENTS:
            complaints.append(
                f"class {name!r}: {counted(len(patients), 'patient')} with a region in the mask, "
                f"at least {FEWEST_PATIENTS} are needed"
            )
    if complaints:
        raise DatasetError(
            "too few patients for a nested cross-validation",
            complaints=complaints,
            remedy="Label more patients, or look at masks that are empty.",
        )


def _labeled_files(source: Source) -> tuple[RegionFiles, ...]:
    wanted: dict[str, set[int]] = {}
    for row in source.labels.rows:
        wanted.setdefault(row.case, set()).update(() if row.lesion is None else (row.lesion,))
    return find_files(source.masks, source.images, source.region, source.labels.unit, wanted)


def _present(labels: Labels, found: Sequence[FoundRegion]) -> tuple[LabelRow, ...]:
    """Return the labeled regions that the masks have."""
    there = {(item.case, item.lesion) for item in found}
    rows = tuple(row for row in labels.rows if (row.case, row.lesion) in there)
    counts = {item.num_channels for item in found}
    if len(counts) > 1:
        raise DatasetError(
            f"images with {' and '.join(map(str, sorted(counts)))} channels",
            remedy="Give every case the same channels.",
        )
    return rows


def _deep_source(network: Model | None) -> DeepSource | None:
    if network is None:
        return None
    from selfseg.classification.deep import source_of

    return source_of(network)


def _missing(labels: Labels, rows: Sequence[LabelRow]) -> tuple[str, ...]:
    there = set(rows)
    return tuple(row.name for row in labels.rows if row not in there)


def _facts(
    rows: Sequence[LabelRow], found: Sequence[FoundRegion], names: tuple[str, ...]
) -> ClassificationFacts:
    positives = np.array([row.positive for row in rows])
    groups = [row.group for row in rows]
    return ClassificationFacts(
        channels=names,
        regions=len(rows),
        groups=len(set(groups)),
        rarer_groups=rarer_groups(positives, groups),
        finest_spacing_mm=float(np.median([item.finest_spacing_mm for item in found])),
        small_volume_mm3=float(np.percentile([item.volume_mm3 for item in found], 10)),
        mirp=mirp_version(),
    )


def chosen_features(training: Training) -> list[tuple[str, float, float]]:
    """Return name, importance and share of outer folds of each chosen feature, best first."""
    fitted = training.model.fitted
    folds: Counter[str] = training.out_of_fold.chosen
    rows = [
        (name, weight, folds[name] / training.out_of_fold.num_folds)
        for name, weight in zip(fitted.features, fitted.importances, strict=True)
    ]
    return sorted(rows, key=lambda row: -row[1])
