"""`selfseg plan`: check, fingerprint, plan, preprocess."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options

USED_BY_WORKERS = (
    "selfseg.fingerprinting.extract",
    "selfseg.preprocessing.dataset",
    "scipy.sparse.csgraph",
    "scipy.spatial",
    "skimage.measure",
)


def plan(
    dataset: Annotated[str, typer.Argument(help="Data folder, or name of a planned data set.")],
    workspace: options.Workspace = None,
    planner: Annotated[str, typer.Option("--planner", help="Who decides.")] = "default",
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory target, such as 8GB. Default: the device's."),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="Text file with the case ids to use, one a line."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print every decision; of a name alone, those there are."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Decide a value yourself; repeatable."),
    ] = None,
    init: options.Init = None,
    init_config: options.InitConfig = None,
    init_fold: options.InitFold = None,
    auxiliary: options.Auxiliary = None,
    no_preprocess: Annotated[
        bool, typer.Option("--no-preprocess", help="Stop after the plan.")
    ] = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check and measure a data set, decide everything, and prepare the training arrays."""
    from selfseg.execution.processes import default_workers, start_early

    start_early(default_workers(workers), *USED_BY_WORKERS)  # what follows imports a lot, too
    from selfseg import pipeline, requests
    from selfseg.cli import tables
    from selfseg.cli.explain import print_decisions
    from selfseg.workspace.lookup import workspace_root

    root = workspace_root(workspace)
    request = requests.PlanRequest(
        planner=planner,
        memory=memory,
        device=device,
        cases=cases,
        settings=tuple(settings or ()),
        start=requests.start_request(root, init, init_config, init_fold),
        auxiliary=auxiliary,
        preprocess=not no_preprocess,
        workers=workers,
    )
    shown = pipeline.shown_plan(dataset, root, request) if explain else None
    if shown is not None:
        typer.echo(shown.model_dump_json(indent=1)) if json else print_decisions(shown)
        return
    result = pipeline.plan_dataset(dataset, root, request)
    if json:
        typer.echo(result.plan.model_dump_json(indent=1))
        return
    if explain:
        print_decisions(result.plan)
    tables.print_plan(result)
