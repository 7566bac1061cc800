"""How probabilities agree with labels: AUC with interval and p-value, sensitivity, Brier score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from selfseg.classification.table import Bools, Floats
from selfseg.records.classification import ClassificationScores, Uncertainty
from selfseg.records.estimate import Estimate

Names = npt.NDArray[np.str_]


def area_under_curve(probabilities: Floats, positives: Bools) -> float:
    """Return the share of pairs of both classes in the right order; equal ones count half."""
    return float(_areas(probabilities, positives[None])[0])


def bootstrap_area(
    probabilities: Floats,
    positives: Bools,
    groups: Names,
    *,
    replicates: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """Return the AUC and its percentile interval; patients are drawn, with all their regions.

    Draws without one of the classes define no AUC and are left out.
    """
    names, members = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    weights = rng.multinomial(len(names), share, size=replicates)[:, members].astype(np.float64)
    a, b = probabilities[positives], probabilities[~positives]
    order = (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
    left, right = weights[:, positives], weights[:, ~positives]
    pairs = left.sum(axis=1) * right.sum(axis=1)
    drawn = ((left @ order) * right).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    value = area_under_curve(probabilities, positives)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (0.0, 1.0)
    return Estimate(value=value, lower=float(min(lower, value)), upper=float(max(upper, value)))


def permutation_p(
    probabilities: Floats, positives: Bools, groups: Names, *, permutations: int, seed: int
) -> float:
    """Return how often permuted labels give at least this AUC: (1 + count) / (1 + permutations).

    Labels of a patient stay together: patients with equally many regions swap theirs, each time
    in a random order. What no other patient can swap with stays, so the value errs to the large.
    """
    rng = np.random.default_rng(seed)
    names, members = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(members == index) for index in range(len(names))]
    sizes = np.array([len(part) for part in rows])
    blocks = [np.stack([rows[i] for i in np.flatnonzero(sizes == n)]) for n in np.unique(sizes)]
    drawn = np.empty((permutations, len(positives)), dtype=bool)
    for labels in drawn:
        for block in blocks:
            mixed = rng.permuted(positives[block], axis=1)
            labels[block] = rng.permutation(mixed, axis=0)
    observed = area_under_curve(probabilities, positives)
    reached = _areas(probabilities, drawn) >= observed - 1e-12
    return float((1 + reached.sum()) / (1 + permutations))


def youden_threshold(probabilities: Floats, positives: Bools) -> float:
    """Return the probability that parts the classes best (sensitivity + specificity, Youden 1950).

    It lies halfway to the next lower probability, so that rounding cannot move a region across.
    """
    values = np.unique(probabilities)
    if len(values) == 1:
        return float(values[0])
    cuts = (values[1:] + values[:-1]) / 2
    called = probabilities[None] >= cuts[:, None]
    rates = called[:, positives].mean(axis=1) - called[:, ~positives].mean(axis=1)
    return float(cuts[int(np.argmax(rates))])


def classification_scores(
    probabilities: Floats,
    called: Bools,
    positives: Bools,
    groups: Names,
    *,
    uncertainty: Uncertainty,
    seed: int,
    missing: tuple[str, ...] = (),
) -> ClassificationScores:
    """Return all scores of probabilities (rows,) and of what was called positive (rows,)."""
    sensitivity = float(called[positives].mean())
    specificity = float((~called[~positives]).mean())
    return ClassificationScores(
        regions=len(positives),
        positives=int(positives.sum()),
        groups=len(np.unique(groups)),
        auc=bootstrap_area(
            probabilities,
            positives,
            groups,
            replicates=uncertainty.replicates,
            confidence=uncertainty.confidence,
            seed=seed,
        ),
        confidence=uncertainty.confidence,
        p_value=permutation_p(
            probabilities, positives, groups, permutations=uncertainty.permutations, seed=seed
        ),
        sensitivity=sensitivity,
        specificity=specificity,
        balanced_accuracy=(sensitivity + specificity) / 2,
        brier=float(np.square(probabilities - positives).mean()),
        missing=missing,
    )


def _areas(probabilities: Floats, labels: Bools) -> Floats:
    """Return the AUC under each row of labels (rows, n), from midranks (Mann & Whitney, 1947)."""
    ranks = stats.rankdata(probabilities)
    count = labels.sum(axis=1)
    others = labels.shape[1] - count
    pairs = np.maximum(count * others, 1)
    return np.asarray((labels @ ranks - count * (count + 1) / 2) / pairs, np.float64)
