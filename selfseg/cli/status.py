"""`selfseg status`: what is done, running, interrupted, missing."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer

from selfseg.cli import options


def status(
    dataset: Annotated[
        str | None, typer.Argument(help="Planned data set; all of the workspace if absent.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show how far every configuration and fold is."""
    from selfseg import status as stage
    from selfseg.cli import tables
    from selfseg.workspace.lookup import workspace_root

    root = workspace_root(workspace)
    found = stage.read_status(dataset, root)
    if json:
        typer.echo(json_module.dumps([asdict(item) for item in found], indent=1))
        return
    tables.print_status(found, root)
