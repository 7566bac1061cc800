"""Probabilities of a fitted classifier, from the numbers in its file alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from scipy.special import expit

from selfseg.classification.choice import component_names, projected
from selfseg.classification.table import Floats
from selfseg.records.classification import (
    Calibration,
    FittedClassifier,
    ForestModel,
    LinearModel,
    Tree,
)


def probabilities(fitted: FittedClassifier, names: Sequence[str], values: Floats) -> Floats:
    """Return the probability of the positive class (rows,).

    Args:
        fitted: The classifier.
        names: Of the features; all that the classifier needs must be among them.
        values: (rows, features).
    """
    every = tuple(names)
    if fitted.projection is not None:
        values = np.concatenate([values, projected(every, values, fitted.projection)], axis=1)
        every += component_names(fitted.projection)
    places = {name: index for index, name in enumerate(every)}
    wanted = values[:, [places[name] for name in fitted.features]]
    standardized = (wanted - np.array(fitted.mean)) / np.array(fitted.scale)
    return calibrated(scores(fitted.model, standardized), fitted.calibration)


def needed_features(fitted: FittedClassifier) -> tuple[str, ...]:
    """Return the names of all features that a classifier is computed from."""
    if fitted.projection is None:
        return fitted.features
    made = component_names(fitted.projection)
    own = tuple(name for name in fitted.features if name not in made)
    return (*own, *fitted.projection.features)


def calibrated(scored: Floats, calibration: Calibration) -> Floats:
    """Return probabilities of scores."""
    return np.asarray(expit(calibration.slope * scored + calibration.intercept), np.float64)


def scores(model: LinearModel | ForestModel, standardized: Floats) -> Floats:
    """Return the score of each row, before calibration."""
    match model:
        case LinearModel():
            linear = standardized @ np.array(model.coefficients) + model.intercept
            return np.asarray(linear, np.float64)
        case ForestModel():
            # Trees compare in float32, as those they were fitted as.
            rows = standardized.astype(np.float32)
            total = sum((_shares(tree, rows) for tree in model.trees), np.zeros(len(rows)))
            return np.asarray(total / len(model.trees), np.float64)
        case _:
            assert_never(model)


def _shares(tree: Tree, rows: np.ndarray) -> Floats:
    """Return the share of the positive class in the leaf of each row."""
    feature, threshold = np.array(tree.feature), np.array(tree.threshold)
    left, right = np.array(tree.left), np.array(tree.right)
    place = np.zeros(len(rows), np.intp)
    everyone = np.arange(len(rows))
    while True:
        inner = left[place] >= 0
        if not inner.any():
            return np.asarray(np.array(tree.share)[place], np.float64)
        goes_left = rows[everyone, feature[place]] <= threshold[place]
        place = np.where(inner, np.where(goes_left, left[place], right[place]), place)
