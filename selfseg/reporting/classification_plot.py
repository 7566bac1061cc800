"""Pictures of a classifier: receiver operating characteristic, and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfseg.files import arriving
from selfseg.records.classification import ClassificationScores

LINE, LIGHT, DARK = "#0072B2", "#999999", "#D55E00"  # Okabe-Ito
BINS = 8  # of the calibration, with equally many regions
DPI = 120


def save_roc(
    probabilities: npt.NDArray[np.float64],
    positives: npt.NDArray[np.bool_],
    scores: ClassificationScores,
    path: Path,
) -> None:
    """Write a PNG of sensitivity against 1 − specificity; a dot where the thresholds lie."""
    figure, axes = _figure()
    shares = roc_points(probabilities, positives)
    axes.plot([0, 1], [0, 1], color=LIGHT, linewidth=0.8, linestyle="--")
    axes.plot(shares[:, 0], shares[:, 1], color=LINE, linewidth=1.8)
    axes.plot(1 - scores.specificity, scores.sensitivity, "D", color=DARK, markersize=7)
    axes.annotate(
        f"sensitivity {scores.sensitivity:.2f}\nspecificity {scores.specificity:.2f}",
        (1 - scores.specificity, scores.sensitivity),
        xytext=(14, -30),
        textcoords="offset points",
        color=DARK,
    )
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    auc = scores.auc
    axes.set_title(
        f"{scores.regions} regions of {scores.groups} patients\n"
        f"AUC {auc.value:.3f} ({auc.lower:.3f} to {auc.upper:.3f})"
    )
    _save(figure, axes, path)


def save_calibration(
    probabilities: npt.NDArray[np.float64],
    positives: npt.NDArray[np.bool_],
    scores: ClassificationScores,
    path: Path,
) -> None:
    """Write a PNG: predicted probability against the share of positives, with intervals."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=LIGHT, linewidth=0.8, linestyle="--")
    means, counts, hits = calibration_bins(probabilities, positives)
    low, high = share_intervals(hits, counts, scores.confidence)
    share = hits / counts
    axes.errorbar(
        means, share, yerr=(share - low, high - share), fmt="o", color=LINE, capsize=3, markersize=6
    )
    ticks = {True: 1.03, False: -0.03}
    for positive, place in ticks.items():
        values = probabilities[positives == positive]
        axes.plot(values, np.full(len(values), place), "|", color=DARK, alpha=0.5, markersize=7)
    axes.set_xlabel("predicted probability (strokes: single regions, positive above)")
    axes.set_ylabel("share of positives")
    axes.set_title(f"{len(means)} bins of equally many regions\nBrier score {scores.brier:.3f}")
    _save(figure, axes, path)


def roc_points(
    probabilities: npt.NDArray[np.float64], positives: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return (1 − specificity, sensitivity) of every threshold, from (0, 0) to (1, 1)."""
    cuts = np.unique(probabilities)[::-1]
    called = probabilities[None] >= cuts[:, None]
    shares = np.stack([called[:, ~positives].mean(axis=1), called[:, positives].mean(axis=1)], 1)
    return np.concatenate([np.zeros((1, 2)), shares])


def calibration_bins(
    probabilities: npt.NDArray[np.float64], positives: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean probability, regions and positives of bins of equally many regions."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
    return (
        np.array([probabilities[part].mean() for part in parts]),
        np.array([float(len(part)) for part in parts]),
        np.array([float(positives[part].sum()) for part in parts]),
    )


def share_intervals(
    hits: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return both ends of the interval of each share `hits / counts` (Clopper & Pearson, 1934)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = beta.ppf(tail, np.maximum(hits, 1), counts - hits + 1)
    high = beta.ppf(1 - tail, hits + 1, np.maximum(counts - hits, 1))
    return np.where(hits > 0, low, 0.0), np.where(hits < counts, high, 1.0)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.06, 1.06)
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    with arriving(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
