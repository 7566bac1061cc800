"""The interval of a mean paired gain, when cases share patients and folds share their luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from selfseg.records.estimate import Estimate

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval, and whether the folds were the observations."""

    estimate: Estimate
    by_fold: bool


def mean_interval(
    values: Floats,
    groups: Sequence[str],
    folds: Sequence[str],
    *,
    confidence: float,
    fold_level: float,
) -> Interval:
    """Return the mean over cases and its interval.

    The interval is Student's, with a variance over clusters (Liang & Zeger 1986, with the factor
    G / (G − 1)). Clusters are the patients, unless the means of the folds differ more than the
    cases in them explain (one-way F test, p below `fold_level`): then they are the folds, since
    all cases of a fold were predicted by the same two networks.

    Args:
        values: One a case, finite, in [-1, 1]; at least one.
        groups: Patient of each case.
        folds: Fold that held each case out; a patient lies in one fold.
        confidence: Of the two-sided interval.
        fold_level: See above.

    Returns:
        The interval is the mean alone where all values are equal, and [-1, 1], all that a gain can
        be, where there is one cluster: nothing is known of its luck.
    """
    by_fold = fold_p_value(values, folds) < fold_level
    mean = float(values.mean())
    sums = _cluster_sums(values - mean, folds if by_fold else groups)
    count = len(sums)
    if count < 2:
        return Interval(Estimate(value=mean, lower=-1.0, upper=1.0), by_fold)
    error = np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * error)
    return Interval(Estimate(value=mean, lower=mean - half, upper=mean + half), by_fold)


def fold_p_value(values: Floats, folds: Sequence[str]) -> float:
    """Return the p of the one-way F test of folds; 1 where it cannot be computed."""
    names, place = np.unique(np.asarray(folds), return_inverse=True)
    count, cases = len(names), len(values)
    if count < 2 or cases <= count:
        return 1.0
    sizes = np.bincount(place)
    means = np.bincount(place, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[place]) ** 2).sum()) / (cases - count)
    if between <= 0:
        return 1.0
    return float(stats.f.sf(between / within, count - 1, cases - count)) if within > 0 else 0.0


def _cluster_sums(values: Floats, clusters: Sequence[str]) -> Floats:
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    return np.asarray(np.bincount(place, values), np.float64)
