"""`selfseg train`: one configuration and fold."""

from __future__ import annotations

from typing import Annotated

import typer

from selfseg.cli import options


def train(
    dataset: Annotated[str, typer.Argument(help="Planned data set: name or data folder.")],
    configuration: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A configuration of the plan: 2d, 3d_fullres …")
    ],
    fold: Annotated[str, typer.Argument(help="0, 1, … or 'all'.")],
    workspace: options.Workspace = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Plan's if absent.")] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option("--steps-per-epoch", min=1, help="Plan's if absent.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Train for so long: 90s, 15m, 1h30m.")
    ] = None,
    restart: options.Restart = False,
    init: options.Init = None,
    init_config: options.InitConfig = None,
    init_fold: options.InitFold = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a fold, or go on with it; then predict and score its validation cases."""
    from selfseg import pipeline, requests
    from selfseg.cli import tables
    from selfseg.workspace.lookup import workspace_root

    root = workspace_root(workspace)
    result = pipeline.train_fold(
        dataset,
        root,
        requests.TrainRequest(
            configuration=configuration,
            fold=fold,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            time_s=None if time is None else requests.parse_duration_s(time),
            restart=restart,
            start=requests.start_request(root, init, init_config, init_fold),
            device=device,
            workers=workers,
            seed=seed,
        ),
    )
    if json:
        typer.echo(result.fold.model_dump_json(indent=1))
        return
    tables.print_trained(result)
