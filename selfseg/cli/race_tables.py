"""What `race` prints: a row for each idea and arm it was judged against."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from rich.table import Table

from selfseg.cli.tables import console
from selfseg.racing.race import RaceResult
from selfseg.records.race import RaceRecord, RaceTrial


def race_json(result: RaceResult) -> str:
    """Return the record of a race as JSON; without a race what was looked at."""
    if result.record is None:
        return json.dumps({"raced": [], "note": result.note}, indent=1)
    return result.record.model_dump_json(indent=1)


def print_race(result: RaceResult) -> None:
    """Print every trial, why, and what became of the plan."""
    out = console()
    if result.record is None or result.folder is None:
        out.print(result.note)
        return
    record = result.record
    out.print(_table(record))
    for trial in record.trials:
        verdict = "accepted" if trial.trial.accepted else "rejected"
        out.print(f"{_raced(trial)}: {verdict}: {trial.trial.because}")
    for line in _outcome(record):
        out.print(line)
    out.print(f"Paired differences of all cases: {result.folder.differences}")


def _outcome(record: RaceRecord) -> Iterator[str]:
    """Yield what became of the plan."""
    basis, name = record.basis, record.basis.configuration.name
    if not record.accepted:
        yield f"The loss of {name} stays as it is; the numbers stand in plan.json"
    elif record.loss != basis.configuration.loss:
        terms = " + ".join(f"{term.weight:g} {term.kind}" for term in record.loss.terms)
        yield f"Loss of {name} in plan.json now: {terms}"
    for idea in basis.ideas:
        won = idea.name in record.accepted
        if idea.start is not None:
            start = f"from {idea.start.title}" if won else f"without {idea.start.title}"
            yield f"'selfseg train' starts {name} {start}"
        if idea.borrows:
            takes_part = "with" if won else "without"
            yield f"'selfseg train' trains {name} {takes_part} the auxiliary data set"
    if record.accepted or any(idea.is_transfer for idea in basis.ideas):
        yield (
            f"Folds of {name} that are trained already were trained by the former plan; to train "
            f"them by the new one: selfseg train {shlex.quote(record.dataset)} {name} 0 --restart "
            f"(folds 0 to {len(basis.splits.folds) - 1})"
        )


def _table(record: RaceRecord) -> Table:
    basis = record.basis
    table = Table(
        title=f"Race of {basis.configuration.name}: {record.length.steps} steps, "
        f"{len(record.cases)} held-out cases of fold {', '.join(basis.folds)}"
    )
    table.add_column("idea")
    for column in ("judged on", "mean gain", "interval", "worst label"):
        table.add_column(column, justify="left" if column == "judged on" else "right")
    table.add_column("gain by metric")
    table.add_column("")
    for trial in record.trials:
        if not trial.gains:
            table.add_row(_raced(trial), *("–",) * 5, "rejected")
            continue
        judged, *single = trial.trial.gains
        gain = judged.gain
        table.add_row(
            _raced(trial),
            judged.metric.removeprefix("mean of "),
            f"{gain.value:+.4f}",
            f"{gain.lower:+.4f} – {gain.upper:+.4f}",
            "–" if trial.trial.worst_change is None else f"{trial.trial.worst_change:+.4f}",
            ", ".join(f"{one.metric} {one.gain.value:+.4f}" for one in single),
            "accepted" if trial.trial.accepted else "rejected",
        )
    return table


def _raced(trial: RaceTrial) -> str:
    on = ", ".join(trial.trial.on_top_of)
    return trial.idea + (f" on top of {on}" if on else "")
