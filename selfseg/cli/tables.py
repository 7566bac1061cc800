"""What commands print: tables on stdout."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from selfseg.evaluation.table import families_of
from selfseg.records.metrics import LabelScores, MetricsTable
from selfseg.records.pretraining import Pretrained
from selfseg.records.selection import Selection
from selfseg.records.transfer import TransferReport
from selfseg.words import counted
from selfseg.workspace.lookup import workspace_root

if TYPE_CHECKING:
    from selfseg.inference.predictor import PredictionReport
    from selfseg.pipeline import PlanResult, TrainResult
    from selfseg.records.ideas import Idea
    from selfseg.running import RunResult
    from selfseg.status import DatasetStatus

PLAIN_WIDTH = 120  # of a file or a pipe
COLUMNS = (
    ("Dice", "dice", 4),
    ("IoU", "iou", 4),
    ("HD95 mm", "hd95_mm", 2),
    ("ASSD mm", "assd_mm", 2),
    ("NSD", "nsd", 4),
    ("ΔV ml", "volume_difference_ml", 3),
)


def console() -> Console:
    """Return a console on stdout that does not guess at numbers and paths."""
    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, width=None if fits else PLAIN_WIDTH)


def print_plan(result: PlanResult) -> None:
    """Print the configurations of a plan, what they start from, and the next command."""
    table = Table(
        title=f"Plan for {result.plan.dataset}: {counted(len(result.dataset.cases), 'case')}"
    )
    for name in ("configuration", "spacing mm", "patch", "batch", "network", "memory GiB"):
        table.add_column(name)
    for item in result.plan.configurations:
        spacing = (f"{s:.3g}" if s is not None else "own" for s in item.preprocessing.spacing_mm)
        table.add_row(
            item.name,
            " × ".join(spacing),
            " × ".join(map(str, item.patch)),
            str(item.batch),
            f"{item.network.kind}, {len(item.network.features)} stages",
            f"{item.memory_gib:.1f}",
        )
    out = console()
    out.print(table)
    if result.splits.note:
        out.print(f"Folds: {result.splits.note}")
    names = result.plan.proposed or tuple(item.name for item in result.plan.configurations)
    out.print(f"Worth training, in this order: {', '.join(names)}")
    out.print(f"Written to {result.folder.path}")
    for item in result.plan.configurations:
        if item.start is not None:
            out.print(f"{item.name} starts from {item.start.title}")
    where, name = _workspace_option(result.folder.path.parent), shlex.quote(result.plan.dataset)
    out.print(f"Next: selfseg train {name} {names[0]} 0{where}")
    foreign = [
        i.name for i in result.plan.nominated if i.is_transfer and i.configuration == names[0]
    ]
    if foreign:
        race = f"selfseg race {name} --ideas {','.join(foreign)}{where}"
        out.print(f"Whether that beats training without: {race}")


def print_trained(result: TrainResult) -> None:
    """Print what was trained and how its validation cases scored."""
    fold = result.fold
    out = console()
    out.print(
        f"{fold.dataset} {fold.configuration} fold {fold.fold}: {counted(fold.epochs, 'epoch')}, "
        f"{counted(fold.steps, 'step')}, {fold.seconds:.0f} s, {fold.precision}"
    )
    if result.transfer is not None:
        print_transfer(result.transfer)
    if result.scores is not None:
        print_metrics(result.scores)
    out.print(f"Model: {result.folder}")


def print_pretrained(made: Pretrained, idea: Idea | None, root: Path) -> None:
    """Print how a network was pretrained, what a race can try, and how to start from it."""
    out, where = console(), _workspace_option(root)
    out.print(
        f"{made.model.dataset} {made.model.configuration}: {counted(made.steps, 'step')} on "
        f"{counted(len(made.cases), 'image')}, {made.seconds:.0f} s"
    )
    out.print(
        f"Error of masked voxels: {made.error:.4f}; painting zeros has {made.error_of_zeros:.4f}"
    )
    name, configuration = shlex.quote(made.model.dataset), made.model.configuration
    if idea is None:
        return  # nothing was learned, as was said: nothing to race or to start from
    race = f"selfseg race {name} --config {configuration} --ideas {idea.name}{where}"
    out.print(f"Whether it beats random weights: {race}")
    start = f"--init {shlex.quote(made.model.folder)}"
    out.print(f"Next: selfseg train {name} {configuration} 0 {start}{where}")


def print_transfer(report: TransferReport) -> None:
    """Print what of a model's weights a training started with, tensors alike in one line."""
    out = console()
    new_share = max(1 - report.loaded_share - report.adapted_share, 0)
    out.print(f"Started from {report.source.title}, {report.strategy.kind}")
    table = Table()
    for name in ("weights", "tensors", "share", "how"):
        table.add_column(name, justify="right" if name in ("tensors", "share") else "left")
    table.add_row("loaded", str(len(report.loaded)), f"{report.loaded_share:.1%}", "as they are")
    for kind, notes, share in (
        ("adapted", report.adapted, report.adapted_share),
        ("fresh", report.fresh, new_share),
    ):
        counts = Counter(note.note for note in notes)
        table.add_row(kind, str(len(notes)), f"{share:.1%}", "; ".join(counts) or "–")
    table.add_row("not used", str(len(report.skipped)), "–", "of the model")
    out.print(table)
    for note in report.notes:
        out.print(f"Note: {note}")


def print_metrics(table: MetricsTable) -> None:
    """Print mean scores per label and over labels; a table more for each family of metrics."""
    view = Table(title=counted(len(table.cases), "case"))
    view.add_column("label")
    for title, _, _ in COLUMNS:
        view.add_column(title, justify="right")
    for name, scores in table.labels.items():
        view.add_row(name, *_cells(scores))
    view.add_section()
    view.add_row("mean", *_cells(table.mean))
    console().print(view)
    _print_families(table)


def print_selection(selection: Selection, path: Path) -> None:
    """Print all candidates, what was chosen and why, and every post-processing that was tried."""
    out = console()
    count = len(selection.candidates[0].cases)
    chosen = tuple(member.configuration for member in selection.members)
    title = f"{count} held-out cases of fold {', '.join(selection.folds)}: {selection.metric}"
    table = Table(title=title)
    for name in ("members", "score", "95 % interval", "to the best", "95 % interval", "cost", ""):
        table.add_column(name, justify="left" if name in ("members", "") else "right")
    for item in selection.candidates:
        table.add_row(
            item.name,
            f"{item.score.value:.4f}",
            f"{item.score.lower:.4f} – {item.score.upper:.4f}",
            f"{item.difference.value:+.4f}",
            f"{item.difference.lower:+.4f} – {item.difference.upper:+.4f}",
            f"{item.cost:.3g}",
            "selected" if item.members == chosen else "",
        )
    out.print(table)
    if selection.trials or selection.crf_trial:
        trials = Table(title="Post-processing, judged on folds it was not tuned on")
        for name in ("of", "step", "gain", ""):
            trials.add_column(name)
        if (crf := selection.crf_trial) is not None:
            trials.add_row(
                "foreground",
                "dense_crf",
                f"{crf.gain.value:+.4f}",
                "accepted" if crf.accepted else "rejected",
            )
        for trial in selection.trials:
            step = trial.step or trial
            trials.add_row(
                trial.subject,
                step.kind,
                f"{trial.gain.value:+.4f}",
                "accepted" if trial.accepted else "rejected",
            )
        out.print(trials)
    for note in selection.notes:
        out.print(f"Note: {note}")
    out.print(f"Selected: {selection.decisions[0].value}, because {selection.decisions[0].because}")
    if selection.crf or selection.postprocessing:
        after = selection.score_postprocessed
        out.print(
            f"With post-processing: {after.value:.4f} ({after.lower:.4f} to {after.upper:.4f})"
        )
    out.print(f"Written to {path}")


def print_predictions(report: PredictionReport, output: Path, *, as_json: bool) -> None:
    """Print how many cases were done and which failed, and why."""
    if as_json:
        failed: Mapping[str, str] = dict(report.failed)
        scores = {
            case.case: {
                label.name: {"score": label.score, "low": label.is_low} for label in case.labels
            }
            for case in report.quality
        }
        shown = {
            "done": list(report.done),
            "kept": list(report.kept),
            "failed": failed,
            "quality": scores,
        }
        print(json.dumps(shown, indent=1))
        return
    out = console()
    if report.kept:
        out.print(f"{counted(len(report.kept), 'case')} done before")
    out.print(f"{counted(len(report.done), 'case')} segmented, written to {output}")
    for case, message in report.failed:
        out.print(f"FAILED {case}: {message}")
    for scored in report.quality:
        for label in scored.labels:
            if label.is_low:
                out.print(
                    f"LOOK AT {scored.case}: {label.name} has an unusual shape (quality "
                    f"{label.score:.3f}; references are seldom below {label.low:.3f})"
                )


def _print_families(table: MetricsTable) -> None:
    """Print a line for each metric, as there may be many, and a column for each label."""
    rows = (*table.labels.values(), table.mean)
    for family, scores in families_of(table.mean):
        view = Table(title=family)
        view.add_column("metric")
        for name in (*table.labels, "mean"):
            view.add_column(name, justify="right")
        for metric, _ in scores:
            values = (getattr(getattr(row, family), metric) for row in rows)
            view.add_row(metric, *("–" if value is None else f"{value:.4g}" for value in values))
        console().print(view)


def _cells(scores: LabelScores) -> list[str]:
    values = ((getattr(scores, field), digits) for _, field, digits in COLUMNS)
    return ["–" if value is None else f"{value:.{digits}f}" for value, digits in values]


def _workspace_option(root: Path) -> str:
    """Return the option that names a workspace, where it is not the usual one."""
    return "" if root == workspace_root(None) else f" --workspace {shlex.quote(str(root))}"


def print_status(datasets: Sequence[DatasetStatus], root: Path) -> None:
    """Print what is done, running, interrupted and missing of each data set."""
    out = console()
    for dataset in datasets:
        table = Table(title=f"{dataset.name}: {dataset.summary}")
        for name in ("configuration", "fold", "state", "steps", "share", "time left", "Dice"):
            table.add_column(name)
        for fold in dataset.folds:
            table.add_row(
                fold.configuration + ("" if fold.proposed else " (not proposed)"),
                fold.fold,
                fold.state,
                "" if fold.steps is None else str(fold.steps),
                "" if fold.share is None else f"{fold.share:.0%}",
                "" if fold.left_s is None else f"{fold.left_s / 60:.1f} min",
                "" if fold.dice is None else f"{fold.dice:.4f}",
            )
        out.print(table)
        if dataset.note:
            out.print(dataset.note)
        if dataset.next_command:
            out.print(f"Next: {dataset.next_command}{_workspace_option(root)}")


def print_run(result: RunResult) -> None:
    """Print the schedule of a finished run, and how long it took."""
    record = result.record
    out = console()
    out.print(f"Trained {record.schedule.decision.value}: {record.schedule.decision.because}")
    limit = "" if record.total_s is None else f" of {record.total_s / 60:.1f}"
    out.print(f"Took {record.elapsed_s / 60:.1f}{limit} minutes")
    out.print(
        f"Next: selfseg predict -i IMAGES -o OUTPUT -m {shlex.quote(str(result.folder.path))}"
    )
