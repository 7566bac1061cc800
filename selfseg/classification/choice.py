"""Choose features: on the training rows alone, from spread, agreement, correlation, importance.

As is usual in radiomics: what is constant, what changes with the contour and
what repeats another feature is dropped without a look at the labels; a random forest's Gini
importance (Breiman, 2001) ranks the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from selfseg.classification.statistics import area_under_curve
from selfseg.classification.table import DEEP, FeatureTable, Floats
from selfseg.errors import DatasetError
from selfseg.radiomics.perturb import agreement
from selfseg.records.classification import FeatureSelection, Projection

CONSTANT = 1e-9  # deviation over the size of the values, below which a feature is rounding


@dataclass(frozen=True)
class Prepared:
    """What a model sees of some training rows.

    Attributes:
        projection: Of deep features; None without them.
        features: Names of the chosen ones, the most important first.
        mean, scale: (chosen,) of the training rows.
        standardized: (rows, chosen).
    """

    projection: Projection | None
    features: tuple[str, ...]
    mean: Floats
    scale: Floats
    standardized: Floats


def prepare_features(table: FeatureTable, options: FeatureSelection, seed: int) -> Prepared:
    """Choose and standardize features.

    Args:
        table: The training rows, and nothing else.
        options: How many, and how.
        seed: Of the forest that ranks.
    """
    projection = fit_projection(table, options)
    names, values, readings = project(table, projection)
    kept = _spread(values)
    if readings.shape[1]:
        kept = _agreeing(values, readings, kept, options.least_agreement)
    kept = _uncorrelated(values, kept, options.most_correlation)
    count = max(1, int(table.num_groups / options.groups_per_feature))
    order = _ranked(values[:, kept], table.positives, options, seed)[:count]
    chosen = [kept[index] for index in order]
    mean, scale = values[:, chosen].mean(axis=0), values[:, chosen].std(axis=0)
    return Prepared(
        projection=projection,
        features=tuple(names[index] for index in chosen),
        mean=mean,
        scale=scale,
        standardized=(values[:, chosen] - mean) / scale,
    )


def fit_projection(table: FeatureTable, options: FeatureSelection) -> Projection | None:
    """Return principal components of the deep features; None if there are none.

    Each component has the sign that makes its largest entry positive, so that it does not depend
    on the library's.
    """
    columns = list(table.deep)
    if not columns:
        return None
    values = table.values[:, columns]
    spread = [columns[index] for index in _spread(values)]
    values = table.values[:, spread]
    mean, scale = values.mean(axis=0), values.std(axis=0)
    most = int(table.num_groups / options.groups_per_component)
    count = max(1, min(options.most_components, most, len(spread)))
    _, _, axes = np.linalg.svd((values - mean) / scale, full_matrices=False)
    axes = axes[:count]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    return Projection(
        features=tuple(table.names[column] for column in spread),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        components=tuple(tuple(row) for row in axes.tolist()),
    )


def project(
    table: FeatureTable, projection: Projection | None
) -> tuple[tuple[str, ...], Floats, Floats]:
    """Return names, values and readings with the components in place of the deep features."""
    if projection is None:
        return table.names, table.values, table.readings
    scores = projected(table.names, table.values, projection)
    own = [i for i in range(len(table.names)) if i not in table.deep]
    names = (*(table.names[i] for i in own), *component_names(projection))
    shape = (*table.readings.shape[:2], scores.shape[1])
    repeated = np.broadcast_to(scores[:, None], shape)
    return (
        names,
        np.concatenate([table.values[:, own], scores], axis=1),
        np.concatenate([table.readings[:, :, own], repeated], axis=2),
    )


def projected(names: Sequence[str], values: Floats, projection: Projection) -> Floats:
    """Return the components (rows, components) of features (rows, names)."""
    places = {name: index for index, name in enumerate(names)}
    wanted = values[:, [places[name] for name in projection.features]]
    centered = (wanted - np.array(projection.mean)) / np.array(projection.scale)
    return np.asarray(centered @ np.array(projection.components).T, np.float64)


def component_names(projection: Projection) -> tuple[str, ...]:
    """Return the names of the components, as features."""
    return tuple(f"{DEEP}component_{i}" for i in range(1, len(projection.components) + 1))


def _spread(values: Floats) -> list[int]:
    """Return the columns that are not constant.

    Raises:
        DatasetError: All are.
    """
    size = np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-300)
    found = [int(i) for i in np.flatnonzero(values.std(axis=0) > CONSTANT * size)]
    if not found:
        raise DatasetError(
            "every feature is the same in all training regions",
            remedy="Look at the masks and images: are they those of different cases?",
        )
    return found


def _agreeing(values: Floats, readings: Floats, kept: list[int], least: float) -> list[int]:
    """Return the columns that other contours change little; if none, the one they change least."""
    every = np.concatenate([values[:, None, kept], readings[:, :, kept]], axis=1)
    found = agreement(every)
    good = [column for column, value in zip(kept, found, strict=True) if value >= least]
    return good or [kept[int(np.argmax(found))]]


def _uncorrelated(values: Floats, kept: list[int], most: float) -> list[int]:
    """Drop columns until no two correlate too much: first what correlates most with all others."""
    ranks = np.apply_along_axis(stats.rankdata, 0, values[:, kept])
    ranks -= ranks.mean(axis=0)
    ranks /= np.linalg.norm(ranks, axis=0)
    correlation = np.abs(ranks.T @ ranks)
    typical = correlation.mean(axis=0)
    left: list[int] = []
    for index in np.argsort(typical, kind="stable"):
        if all(correlation[index, other] <= most for other in left):
            left.append(int(index))
    return [kept[index] for index in sorted(left)]


def _ranked(
    values: Floats, positives: np.ndarray, options: FeatureSelection, seed: int
) -> list[int]:
    """Return the columns by falling Gini importance.

    With hardly more rows than two leaves take, no tree tells the classes apart: the library divides
    0 by 0, or gives 0 for every column. Then how well each column does so alone ranks them.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=options.trees,
        class_weight="balanced",
        min_samples_leaf=options.least_in_leaf,
        random_state=seed,
    )
    forest.fit((values - values.mean(axis=0)) / values.std(axis=0), positives)
    with np.errstate(invalid="ignore"):
        weights = forest.feature_importances_
    if not weights.sum() > 0:  # nor is NaN
        weights = np.array([abs(area_under_curve(column, positives) - 0.5) for column in values.T])
    return [int(i) for i in np.argsort(-weights, kind="stable")]
