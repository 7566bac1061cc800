"""`selfseg race`: nominated ideas against the plain plan."""

from __future__ import annotations

from typing import Annotated

import typer

from selfseg.cli import options


def race(
    dataset: Annotated[str, typer.Argument(help="Planned data set: name or data folder.")],
    workspace: options.Workspace = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="Configuration to race. Default: the first proposed."),
    ] = None,
    ideas: Annotated[
        str | None,
        typer.Option(
            "--ideas", help="Ideas to race: a,b. Default: the first four that were not raced yet."
        ),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Folds to race on: 0,1. Default: all.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            help="Limit over everything: 2h. Default: every training has a quarter of the plan's "
            "epochs, mostly 62,500 steps.",
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Race nominated ideas against the plain plan on equal folds; accept what a paired test allows.

    Accepted ideas join the plan; a start or a second data set that does not win leaves it. The same
    command goes on after an interruption.
    """
    from selfseg import requests
    from selfseg.cli import race_tables
    from selfseg.racing.race import race_dataset
    from selfseg.workspace.lookup import workspace_root

    result = race_dataset(
        dataset,
        workspace_root(workspace),
        requests.RaceRequest(
            configuration=config,
            ideas=_names(ideas),
            folds=_names(folds),
            time_s=None if time is None else requests.parse_duration_s(time),
            device=device,
            workers=workers,
            seed=seed,
        ),
    )
    if json:
        typer.echo(race_tables.race_json(result))
        return
    race_tables.print_race(result)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
