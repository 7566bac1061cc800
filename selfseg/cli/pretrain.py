"""`selfseg pretrain`: a start without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def pretrain(
    dataset: Annotated[str, typer.Argument(help="Planned data set: name or data folder.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of images without labels.")],
    workspace: options.Workspace = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Configuration. Default: the first proposed.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="The planner's if absent.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Pretrain for so long: 90s, 15m, 1h30m.")
    ] = None,
    restart: options.Restart = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Teach a planned network images without labels; 'race' tries to start from it."""
    from selfseg import requests
    from selfseg.cli import tables
    from selfseg.pretrain import PretrainRequest, pretrain_network
    from selfseg.workspace.lookup import workspace_root

    root = workspace_root(workspace)
    made, idea = pretrain_network(
        dataset,
        root,
        PretrainRequest(
            images=images,
            configuration=config,
            steps=steps,
            time_s=None if time is None else requests.parse_duration_s(time),
            restart=restart,
            device=device,
            workers=workers,
            seed=seed,
        ),
    )
    if json:
        typer.echo(made.model_dump_json(indent=1))
        return
    tables.print_pretrained(made, idea, root)
