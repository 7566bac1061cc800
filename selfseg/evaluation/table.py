"""Means over cases and labels, and the table of scores as CSV and JSON files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from selfseg.records import serial
from selfseg.records.metrics import CaseScores, Family, LabelScores, MetricsTable

METRICS = tuple(name for name, field in LabelScores.model_fields.items() if field.is_required())
FAMILIES = tuple(name for name in LabelScores.model_fields if name not in METRICS)


def metrics_table(cases: Sequence[CaseScores], label_names: Sequence[str]) -> MetricsTable:
    """Average scores: per label over the cases that define a metric, then over the labels."""
    labels = {
        name: mean_scores([case.labels[name] for case in cases if name in case.labels])
        for name in label_names
    }
    return MetricsTable(mean=mean_scores(labels.values()), labels=labels, cases=tuple(cases))


def mean_scores(scores: Iterable[LabelScores]) -> LabelScores:
    """Return the mean of each metric over the scores that define it; None if none does."""
    rows = tuple(scores)
    columns = {name: [getattr(row, name) for row in rows] for name in METRICS}
    families = {name: [getattr(row, name) for row in rows] for name in FAMILIES}
    return LabelScores.model_validate(
        {name: _mean(column) for name, column in columns.items()}
        | {name: _mean_family(column) for name, column in families.items()}
    )


def families_of(scores: LabelScores) -> Iterator[tuple[str, Family]]:
    """Yield the name and the scores of each family that was asked for."""
    for name in FAMILIES:
        family = getattr(scores, name)
        if family is not None:
            yield name, family


def write_table(table: MetricsTable, path: Path) -> tuple[Path, Path]:
    """Write a table as `path` with the endings .json and .csv; return both paths."""
    stem = path.with_suffix("") if path.suffix in (".json", ".csv") else path
    json_path, csv_path = (stem.with_name(stem.name + ending) for ending in (".json", ".csv"))
    serial.save(table, json_path)
    serial.write_text(csv_text(table), csv_path)
    return json_path, csv_path


def csv_text(table: MetricsTable) -> str:
    """Return one line per case and label, then the means; undefined metrics are empty.

    Columns of a family begin with its name: `chaos_dice`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    further = (
        f"{name}_{metric}" for name, family in families_of(table.mean) for metric, _ in family
    )
    writer.writerow(("case", "label", *METRICS, *further))
    for case in table.cases:
        writer.writerows(_row(case.case, name, scores) for name, scores in case.labels.items())
    writer.writerows(_row("mean", name, scores) for name, scores in table.labels.items())
    writer.writerow(_row("mean", "mean", table.mean))
    return stream.getvalue()


def _row(case: str, label: str, scores: LabelScores) -> tuple[str, ...]:
    values = [getattr(scores, name) for name in METRICS]
    values += [value for _, family in families_of(scores) for _, value in family]
    return (case, label, *("" if value is None else f"{value:.6g}" for value in values))


def _mean_family(families: Sequence[Family | None]) -> Family | None:
    """Return the mean of each metric of one family; None where it was not asked for."""
    defined = [family for family in families if family is not None]
    if not defined:
        return None
    kind = type(defined[0])
    return kind.model_validate(
        {name: _mean([getattr(family, name) for family in defined]) for name in kind.model_fields}
    )


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
