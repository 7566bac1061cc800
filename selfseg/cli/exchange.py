"""`selfseg import`: models from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def import_(
    source: Annotated[
        Path, typer.Argument(help="nnU-Net v2: a model folder, a data set's results, or a zip.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New model folder. Default: in the workspace."),
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read a trained model into a folder that `selfseg predict -m` takes."""
    from selfseg import importing
    from selfseg.cli import exchange_tables
    from selfseg.workspace import workspace_root

    result = importing.import_nnunet(source, output=output, workspace=workspace_root(workspace))
    exchange_tables.print_imported(result, as_json=json)
