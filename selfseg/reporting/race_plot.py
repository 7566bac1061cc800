"""Picture of a race: the paired gain of every held-out case, idea by idea."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from selfseg.files import arriving
from selfseg.records.race import PLAIN, RaceRecord, RaceTrial

# Okabe-Ito colors, and a second sign for each: color is not the only one.
ACCEPTED, REJECTED = "#0072B2", "#999999"
SPREAD = 0.28  # how far the points of an idea reach to either side


def save_differences(record: RaceRecord, path: Path) -> None:
    """Write a PNG: one column an idea, a point a case (in points), mean and interval.

    Args:
        record: A finished race.
        path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [trial for trial in record.trials if trial.gains]
    trials = [trial for trial in compared if trial.arm in {arm.name for arm in record.arms}]
    unique = {(trial.arm, trial.against): trial for trial in reversed(trials)}
    shown = [trial for trial in trials if unique[trial.arm, trial.against] is trial]
    figure = Figure(figsize=(1.8 + 1.7 * len(shown), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(0.0, color="black", linewidth=0.8)
    for column, trial in enumerate(shown):
        gains = 100 * np.array([gain for gain in trial.gains if gain is not None])
        color = ACCEPTED if trial.trial.accepted else REJECTED
        places = column + _offsets(gains)
        axes.plot(places, np.sort(gains), "o", color=color, markersize=4, alpha=0.6)
        gain = trial.trial.gains[0].gain
        value, lower, upper = (100 * part for part in (gain.value, gain.lower, gain.upper))
        axes.plot([column + 0.38] * 2, [lower, upper], color="black", linewidth=1.5)
        axes.plot(column + 0.38, value, "D", color="black", markersize=5)
    axes.set_xticks(range(len(shown)), [_title(trial) for trial in shown])
    axes.set_xlim(-0.6, len(shown) - 0.3)
    axes.set_ylabel("gain of a held-out case, points\n(diamond: mean and interval)")
    name = record.basis.configuration.name
    axes.set_title(f"{record.dataset} {name}: {record.length.steps} steps")
    axes.spines[["top", "right"]].set_visible(False)
    with arriving(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _offsets(gains: np.ndarray) -> np.ndarray:
    """Return where the sorted points stand: side by side, so that none covers another."""
    return np.linspace(-SPREAD, SPREAD, len(gains)) if len(gains) > 1 else np.zeros(len(gains))


def _title(trial: RaceTrial) -> str:
    verdict = "accepted" if trial.trial.accepted else "rejected"
    against = "" if trial.against == PLAIN else f"\non {trial.against.removeprefix(f'{PLAIN}+')}"
    metrics = trial.trial.gains[0].metric.removeprefix("mean of ")
    return f"{trial.idea}{against}\n{verdict}\n({metrics})"
