"""Means over labels and cases with paired bootstrap intervals; groups are drawn, not cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selfseg.records.estimate import Estimate

Floats = npt.NDArray[np.float64]


def mean_score(scores: Floats) -> float:
    """Return the mean over labels of the mean over cases of scores (cases, labels).

    NaN means undefined and does not count; NaN if nothing is defined.
    """
    return float(_means(scores, np.ones((1, len(scores))))[0])


def draw_weights(groups: Sequence[str], replicates: int, seed: int) -> Floats:
    """Return how often each case counts in each replicate (replicates, cases)."""
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return np.asarray(counts[:, members], np.float64)


def estimate(scores: Floats, weights: Floats, confidence: float) -> Estimate:
    """Return mean and interval of scores (cases, labels)."""
    return _estimate(mean_score(scores), _means(scores, weights), confidence)


def difference(a: Floats, b: Floats, weights: Floats, confidence: float) -> Estimate:
    """Return a − b with its paired interval; both (cases, labels), drawn together."""
    replicates = _means(a, weights) - _means(b, weights)
    return _estimate(mean_score(a) - mean_score(b), replicates, confidence)


def _means(scores: Floats, weights: Floats) -> Floats:
    """Return the mean score under each row of weights."""
    defined = np.isfinite(scores)
    total = weights @ np.where(defined, scores, 0.0)
    count = weights @ defined
    by_label = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    known = np.isfinite(by_label)
    sums = np.where(known, by_label, 0.0).sum(1)
    labels = known.sum(1)
    means: Floats = np.divide(sums, labels, out=np.full(len(sums), np.nan), where=labels > 0)
    return means


def _estimate(value: float, replicates: Floats, confidence: float) -> Estimate:
    known = replicates[np.isfinite(replicates)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (value, value)
    return Estimate(value=value, lower=float(min(low, value)), upper=float(max(high, value)))
