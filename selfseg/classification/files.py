"""Probabilities and chosen features as CSV files, the model as one JSON file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.classification.train import Training, chosen_features
from selfseg.errors import DatasetError, ModelError
from selfseg.records import serial
from selfseg.records.classification import ClassifierModel

COLUMNS = ("case", "lesion", "positive", "probability", "called")
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one region; None where the mask has none.

    Attributes:
        positive: Name of the class that the probability is of.
        called: Whether the region is called positive, by the classifier's threshold.
    """

    case: str
    lesion: int | None
    positive: str
    probability: float | None
    called: bool | None


def save_model(model: ClassifierModel, path: Path) -> None:
    """Write a classifier as JSON on one line: trees are long lists."""
    serial.write_text(model.model_dump_json() + "\n", path)


def load_model(path: Path) -> ClassifierModel:
    """Read a classifier; a folder means the model.json in it.

    Raises:
        ModelError: No such file.
        RecordError: Not a classifier.
    """
    file = path / "model.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(
            f"{file}: no such file", remedy="Give the folder that 'selfseg classify train' wrote."
        )
    return serial.load(ClassifierModel, file)


def write_predictions(predictions: Iterable[Prediction], path: Path) -> None:
    """Write probabilities, one line a region."""
    rows = (
        (
            item.case,
            "" if item.lesion is None else item.lesion,
            item.positive,
            "" if item.probability is None else f"{item.probability:.10g}",
            "" if item.called is None else YES if item.called else NO,
        )
        for item in predictions
    )
    serial.write_text(_csv(COLUMNS, rows), path)


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read what `write_predictions` wrote.

    Raises:
        DatasetError: All complaints about the file.
    """
    complaints: list[str] = []
    found = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        lines, complaints = [], [f"cannot be read ({error})"]
    for number, line in enumerate(lines, start=2):
        try:
            found.append(_prediction(line))
        except (KeyError, TypeError, ValueError):
            complaints.append(f"line {number}: not {','.join(COLUMNS)}")
    counts = Counter((item.case, item.lesion) for item in found)
    complaints += [
        f"case {case}{'' if lesion is None else f' lesion {lesion}'} stands there {times} times"
        for (case, lesion), times in counts.items()
        if times > 1
    ]
    if complaints or not found:
        raise DatasetError(
            f"{path}: not a file of probabilities",
            complaints=complaints[:8],
            remedy="Give the CSV file that 'selfseg classify predict' or 'train' wrote.",
        )
    return tuple(found)


def write_out_of_fold(training: Training, path: Path) -> None:
    """Write label, out-of-fold probability and fold of every labeled region."""
    model, held_out = training.model, training.out_of_fold
    rows = (
        (
            row.case,
            "" if row.lesion is None else row.lesion,
            model.positive,
            f"{probability:.10g}",
            YES if called else NO,
            row.group,
            model.positive if row.positive else model.negative,
            int(fold),
        )
        for row, probability, called, fold in zip(
            training.rows, held_out.probabilities, held_out.called, held_out.folds, strict=True
        )
    )
    serial.write_text(_csv((*COLUMNS, "group", "label", "fold"), rows), path)


def write_features(training: Training, path: Path) -> None:
    """Write the chosen features, the most important first."""
    rows = (
        (name, f"{weight:.4g}", f"{share:.3g}") for name, weight, share in chosen_features(training)
    )
    serial.write_text(_csv(("feature", "importance", "share_of_folds"), rows), path)


def write_table(training: Training, path: Path) -> None:
    """Write all features of all labeled regions."""
    rows = (
        (row.case, "" if row.lesion is None else row.lesion, *(f"{v:.8g}" for v in values))
        for row, values in zip(training.rows, training.table.values, strict=True)
    )
    serial.write_text(_csv(("case", "lesion", *training.table.names), rows), path)


def _prediction(line: dict[str, str]) -> Prediction:
    probability = float(line["probability"]) if line["probability"] else None
    called = line["called"]
    if called not in (YES, NO, "") or (probability is None) != (not called):
        raise ValueError("called")
    if probability is not None and not 0 <= probability <= 1:
        raise ValueError("probability")
    return Prediction(
        case=line["case"],
        lesion=int(line["lesion"]) if line["lesion"] else None,
        positive=line["positive"],
        probability=probability,
        called=called == YES if called else None,
    )


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
