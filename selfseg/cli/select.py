"""`selfseg select`: the best configuration or ensemble, by cross-validation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from selfseg.cli import options


class Metric(StrEnum):
    """What is compared."""

    dice = "dice"
    nsd = "nsd"


def select(
    dataset: Annotated[str, typer.Argument(help="Planned data set: name or data folder.")],
    workspace: options.Workspace = None,
    metric: Annotated[
        Metric, typer.Option("--metric", help="Dice, or surface Dice at a tolerance.")
    ] = Metric.dice,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Tolerance of the surface Dice in mm.")
    ] = 1.0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Choose the best configuration or ensemble, and post-processing that helps, on held-out cases.

    The choice is written to selection.json, which `selfseg predict` uses by default.
    """
    from selfseg import pipeline, requests
    from selfseg.cli import tables
    from selfseg.workspace.lookup import planned_folder, workspace_root

    root = workspace_root(workspace)
    result = pipeline.select_models(
        dataset,
        root,
        requests.SelectRequest(
            metric=metric.value, tolerance_mm=tolerance, device=device, workers=workers
        ),
    )
    if json:
        typer.echo(result.model_dump_json(indent=1))
        return
    tables.print_selection(result, planned_folder(root, dataset).selection)
