"""What `selfseg measure` and `selfseg classify` print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from selfseg.cli.tables import console
from selfseg.records.classification import ClassificationScores
from selfseg.records.measurement import MeasurementTable
from selfseg.words import counted

if TYPE_CHECKING:
    from selfseg.classification.files import Prediction
    from selfseg.classification.train import Training

MOST_ROWS = 40  # on a screen; files have all
MOST_FEATURES = 10
NAMES_SHOWN = 5


def print_measurements(table: MeasurementTable) -> None:
    """Print one line a lesion."""
    view = Table(title=counted(len(table.lesions), "lesion"))
    for name in ("case", "label", "lesion"):
        view.add_column(name)
    for name in ("ml", "axial mm", "3D mm", "center mm (x, y, z)", "mean ± SD"):
        view.add_column(name, justify="right")
    for lesion in table.lesions[:MOST_ROWS]:
        first = lesion.intensities[0] if lesion.intensities else None
        view.add_row(
            lesion.case,
            lesion.label,
            str(lesion.lesion),
            f"{lesion.volume_ml:.3f}",
            f"{lesion.longest_axial_mm:.1f}",
            f"{lesion.longest_3d_mm:.1f}",
            ", ".join(f"{value:.1f}" for value in lesion.center_mm),
            "" if first is None else f"{first.mean:.4g} ± {first.standard_deviation:.3g}",
        )
    out = console()
    out.print(view)
    _print_rest(len(table.lesions), "-o FILE writes all")
    if table.empty:
        out.print(f"{counted(len(table.empty), 'case')} without lesions: {_named(table.empty)}")


def print_training(training: Training, folder: Path) -> None:
    """Print choices and reasons, out-of-fold scores, the most important features."""
    from selfseg.classification.train import chosen_features

    out = console()
    model = training.model
    decisions = Table(title="Choices")
    for name in ("what", "value", "because"):
        decisions.add_column(name)
    for item in model.plan.decisions:
        decisions.add_row(item.subject, item.value, item.because)
    out.print(decisions)
    rows = chosen_features(training)
    view = Table(title=f"{counted(len(rows), 'feature')} of {model.fitted.candidate.kind}")
    for name in ("feature", "importance", "share of folds"):
        view.add_column(name, justify="left" if name == "feature" else "right")
    for name, weight, share in rows[:MOST_FEATURES]:
        view.add_row(name, f"{weight:.3f}", f"{share:.0%}")
    out.print(view)
    print_scores(model.scores, f"Out of fold: probability of {model.positive!r}")
    size = model.volume_auc
    out.print(
        f"The volume alone: AUC {size.value:.3f} ({size.lower:.3f} to {size.upper:.3f}), "
        "larger for positive"
    )
    out.print(f"Written to {folder}")


def print_scores(scores: ClassificationScores, title: str) -> None:
    """Print how probabilities agree with labels."""
    view = Table(title=title)
    view.add_column("")
    view.add_column("value", justify="right")
    auc, interval = scores.auc, f"AUC ({100 * scores.confidence:g} % interval)"
    for name, text in (
        ("regions", f"{scores.regions} ({scores.positives} positive)"),
        ("patients", f"{scores.groups}"),
        (interval, f"{auc.value:.3f} ({auc.lower:.3f} to {auc.upper:.3f})"),
        ("p (permuted labels)", f"{scores.p_value:.4f}"),
        ("sensitivity", f"{scores.sensitivity:.3f}"),
        ("specificity", f"{scores.specificity:.3f}"),
        ("balanced accuracy", f"{scores.balanced_accuracy:.3f}"),
        ("Brier score", f"{scores.brier:.3f}"),
    ):
        view.add_row(name, text)
    out = console()
    out.print(view)
    if scores.missing:
        out.print(f"Not counted, {len(scores.missing)} without region: {_named(scores.missing)}")


def print_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Print one line a region."""
    view = Table(title=f"Probability of {predictions[0].positive!r}" if predictions else "Nothing")
    for name in ("case", "lesion", "probability", "called"):
        view.add_column(name, justify="right" if name == "probability" else "left")
    for item in predictions[:MOST_ROWS]:
        view.add_row(
            item.case,
            "" if item.lesion is None else str(item.lesion),
            "no region" if item.probability is None else f"{item.probability:.3f}",
            item.positive if item.called else "" if item.called is None else "–",
        )
    console().print(view)
    _print_rest(len(predictions), "the file has all")
    console().print(f"Written to {path}")


def predictions_json(predictions: Sequence[Prediction]) -> str:
    """Return predictions as JSON."""
    return json.dumps([vars(item) for item in predictions], indent=1)


def _print_rest(count: int, where: str) -> None:
    if count > MOST_ROWS:
        console().print(f"… and {count - MOST_ROWS} more; {where}")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
