"""`selfseg demo`: everything on a small generated data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where all files go.")] = Path("demo"),
    device: options.Device = "cpu",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Generate CT-like images, then plan, train two folds, predict, evaluate: minutes on a CPU."""
    from selfseg import demonstration
    from selfseg.cli import tables

    result = demonstration.run(folder, device=device, workers=workers, seed=seed)
    tables.print_metrics(result.metrics)
    typer.echo(f"Picture of a result: {result.picture}")
    typer.echo(f"Workspace: {result.workspace}")
