"""What `selfseg import` and `selfseg export` print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from selfseg.bundles import Exported
from selfseg.cli.tables import console
from selfseg.importing import ImportResult
from selfseg.words import counted


def print_imported(result: ImportResult, *, as_json: bool) -> None:
    """Print the folds and configurations of an imported model."""
    plan = result.plan
    if as_json:
        folds = [
            {
                "configuration": fold.trained.configuration,
                "fold": fold.trained.fold,
                "trainer": fold.trainer,
                "checkpoint": fold.checkpoint,
                "epochs": fold.trained.epochs,
            }
            for fold in result.folds
        ]
        print(json.dumps({"folder": str(result.folder), "folds": folds}, indent=1))
        return
    out = console()
    table = Table(title=f"{plan.dataset}: {', '.join(plan.channels)} → {', '.join(_names(result))}")
    for name in ("configuration", "spacing mm", "patch", "network", "mirrored axes", "folds"):
        table.add_column(name)
    for item in plan.configurations:
        spacing = (f"{s:.3g}" if s is not None else "own" for s in item.preprocessing.spacing_mm)
        names = [f.trained.fold for f in result.folds if f.trained.configuration == item.name]
        table.add_row(
            item.name,
            " × ".join(spacing),
            " × ".join(map(str, item.patch)),
            f"{item.network.kind}, {len(item.network.features)} stages",
            ", ".join(map(str, item.inference.mirror_axes)) or "none",
            ", ".join(names),
        )
    out.print(table)
    for fold in result.folds:
        trainer = f" of {fold.trainer}" if fold.trainer else ""
        out.print(
            f"{fold.trained.configuration} fold {fold.trained.fold}: {fold.checkpoint}, "
            f"{counted(fold.trained.epochs, 'epoch')}{trainer}"
        )
    out.print(f"Written to {result.folder}")
    model = shlex.quote(str(result.folder))
    out.print(f"Next: selfseg predict -i IMAGES -o OUTPUT -m {model}")


def _names(result: ImportResult) -> tuple[str, ...]:
    return result.plan.targets.names


def print_exported(cases: Sequence[str], output: Path, *, as_json: bool) -> None:
    """Print the `cases` of a data set that were written."""
    if as_json:
        print(json.dumps({"output": str(output), "cases": list(cases)}, indent=1))
        return
    console().print(f"{counted(len(cases), 'case')} written to {output}")


def print_exported_model(exported: Exported, output: Path, *, as_json: bool) -> None:
    """Print what went into a file, and why."""
    if as_json:
        shown = {
            "output": str(output),
            "files": list(exported.files),
            "folds": list(exported.folds),
            "because": exported.because,
        }
        print(json.dumps(shown, indent=1))
        return
    out = console()
    out.print(f"{len(exported.files)} files written to {output}, without the ids of cases")
    out.print(f"Folds of {'; '.join(exported.folds)} ({exported.because})")
