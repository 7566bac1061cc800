"""`selfseg run`: everything in a row, within a time limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def run(
    dataset: Annotated[str, typer.Argument(help="Data folder, or the name of a planned data set.")],
    workspace: options.Workspace = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="Limit over everything: 20m, 6h. Default: the plan's lengths."),
    ] = None,
    planner: Annotated[str, typer.Option("--planner", help="Who decides.")] = "default",
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory target, such as 8GB. Default: the device's."),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="Text file with the case ids to use, one a line."),
    ] = None,
    init: options.Init = None,
    init_config: options.InitConfig = None,
    init_fold: options.InitFold = None,
    auxiliary: options.Auxiliary = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Plan, train the proposed configurations and folds, select the best of them.

    The same command goes on after an interruption; only the time spent running counts.
    """
    from selfseg import requests, running
    from selfseg.cli import tables
    from selfseg.workspace.lookup import workspace_root

    root = workspace_root(workspace)
    result = running.run_dataset(
        dataset,
        root,
        requests.RunRequest(
            time_s=None if time is None else requests.parse_duration_s(time),
            planner=planner,
            memory=memory,
            cases=cases,
            start=requests.start_request(root, init, init_config, init_fold),
            auxiliary=auxiliary,
            device=device,
            workers=workers,
            seed=seed,
        ),
    )
    if json:
        typer.echo((result.selection or result.record).model_dump_json(indent=1))
        return
    if result.selection is not None:
        tables.print_selection(result.selection, result.folder.selection)
    tables.print_run(result)
