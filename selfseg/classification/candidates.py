"""Fit candidates with scikit-learn and keep what they learned as plain numbers."""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np

from selfseg.classification.table import Bools, Floats
from selfseg.records.classification import (
    Calibration,
    Candidate,
    ForestCandidate,
    ForestModel,
    LinearModel,
    LogisticCandidate,
    SVMCandidate,
    Tree,
)


def fit_candidate(
    candidate: Candidate, standardized: Floats, positives: Bools, seed: int
) -> LinearModel | ForestModel:
    """Fit one candidate; both classes weigh the same.

    Args:
        candidate: What to fit.
        standardized: Features (rows, features).
        positives: (rows,), with both classes.
        seed: Of the forest; the others have nothing random.
    """
    estimator = build_estimator(candidate, seed).fit(standardized, positives)
    if isinstance(candidate, ForestCandidate):
        return ForestModel(trees=tuple(_tree(tree.tree_) for tree in estimator.estimators_))
    return LinearModel(
        coefficients=tuple(estimator.coef_[0].tolist()), intercept=float(estimator.intercept_[0])
    )


def build_estimator(candidate: Candidate, seed: int) -> Any:
    """Return the estimator of a candidate, not yet fitted."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    match candidate:
        case ForestCandidate():
            return RandomForestClassifier(
                n_estimators=candidate.trees,
                min_samples_leaf=candidate.least_in_leaf,
                class_weight="balanced",
                random_state=seed,
            )
        case LogisticCandidate():
            return LogisticRegression(C=candidate.c, class_weight="balanced", max_iter=10_000)
        case SVMCandidate():
            return SVC(kernel="linear", C=candidate.c, class_weight="balanced")
        case _:
            assert_never(candidate)


def importances(model: LinearModel | ForestModel, standardized: Floats) -> Floats:
    """Return what each feature contributes, with sum 1: absolute coefficients, or Gini decrease.

    Args:
        model: Fitted.
        standardized: Rows it was fitted on; they tell how many pass each node of a tree.
    """
    if isinstance(model, LinearModel):
        weights = np.abs(np.array(model.coefficients))
    else:
        weights = np.zeros(standardized.shape[1])
        rows = standardized.astype(np.float32)
        for tree in model.trees:
            _add_gini(tree, rows, weights)
    total = weights.sum()
    return np.asarray(weights / total if total > 0 else np.full(len(weights), 1 / len(weights)))


def fit_calibration(scored: Floats, positives: Bools, share: float) -> Calibration:
    """Return Platt's sigmoid (1999), with his targets (P + 1) / (P + 2) and 1 / (N + 2).

    Scores of training rows would look too sure: give scores of rows that were held out. Scores
    that rank the wrong way round tell nothing: all rows then get the same probability, `share`.

    Args:
        scored: (rows,).
        positives: (rows,), with both classes.
        share: Of positives where probabilities are wanted, between 0 and 1; rows weigh as if it
            were theirs. Folds that are judged together need one share for all of them: their own
            ones are lower the more positives they hold out, and would rank these last.
    """
    from sklearn.linear_model import LogisticRegression

    count = int(positives.sum()), int((~positives).sum())
    target = np.where(positives, (count[0] + 1) / (count[0] + 2), 1 / (count[1] + 2))
    spread = float(scored.std())
    twice = np.concatenate([scored, scored])[:, None] / (spread or 1.0)
    classes = np.repeat([True, False], len(scored))
    size = len(scored)
    weigh = np.where(positives, size * share / count[0], size * (1 - share) / count[1])
    weights = np.concatenate([target * weigh, (1 - target) * weigh])
    fitted = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-10)
    fitted.fit(twice, classes, sample_weight=weights)
    slope = float(fitted.coef_[0, 0]) / (spread or 1.0)
    if spread == 0 or slope <= 0:
        return Calibration(slope=0.0, intercept=float(np.log(share / (1 - share))))
    return Calibration(slope=slope, intercept=float(fitted.intercept_[0]))


def _tree(fitted: Any) -> Tree:
    """Return the nodes of a tree; weights of the classes become a share."""
    weights = fitted.value[:, 0, :]
    leaf = fitted.children_left < 0
    return Tree(
        feature=tuple(np.where(leaf, 0, fitted.feature).tolist()),
        threshold=tuple(np.where(leaf, 0.0, fitted.threshold).tolist()),
        left=tuple(fitted.children_left.tolist()),
        right=tuple(fitted.children_right.tolist()),
        share=tuple((weights[:, 1] / weights.sum(axis=1)).tolist()),
    )


def _add_gini(tree: Tree, rows: np.ndarray, weights: Floats) -> None:
    """Add what the nodes of a tree take off the impurity of the rows that pass them."""
    share = np.array(tree.share)
    impurity = 2 * share * (1 - share)
    reached = {0: np.ones(len(rows), bool)}
    for node, (left, right) in enumerate(zip(tree.left, tree.right, strict=True)):
        if left < 0:
            continue
        here = reached.pop(node)
        goes_left = rows[:, tree.feature[node]] <= tree.threshold[node]
        reached[left], reached[right] = here & goes_left, here & ~goes_left
        sizes = [np.count_nonzero(reached[child]) for child in (left, right)]
        after = sizes[0] * impurity[left] + sizes[1] * impurity[right]
        weights[tree.feature[node]] += max(0.0, sum(sizes) * impurity[node] - after)
