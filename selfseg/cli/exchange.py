"""`selfseg import` and `selfseg export`: models and data sets from and to elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options
from selfseg.errors import SelfSegError


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="An exported model; or nnU-Net v2: model folder, data set's results, zip."
        ),
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
    from selfseg.workspace.lookup import workspace_root

    result = importing.import_model(source, output=output, workspace=workspace_root(workspace))
    exchange_tables.print_imported(result, as_json=json)


def export(
    source: Annotated[
        str, typer.Argument(help="Model folder or planned name; with --nnunet a data set.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file; with --nnunet a new folder.")
    ],
    nnunet: Annotated[
        bool, typer.Option("--nnunet", help="Write a data set in nnU-Net's raw layout.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option("--config", help="NAME,NAME. Default: what was selected, else all."),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Such as 0,1,2 or all. Default: the same.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a trained model as one safe file, or a data set in nnU-Net's raw layout."""
    from selfseg.cli import exchange_tables
    from selfseg.workspace.lookup import dataset_folder, workspace_root

    root = workspace_root(workspace)
    if nnunet:
        from selfseg import exporting

        if config is not None or folds is not None:
            raise SelfSegError(
                "--config and --folds choose of a model; --nnunet writes a data set",
                remedy="Leave them out, or leave out --nnunet.",
            )
        dataset = exporting.export_dataset(source, output, workspace=root)
        cases = [case.id for case in dataset.cases]
        exchange_tables.print_exported(cases, output, as_json=json)
        return
    from selfseg import bundles

    named = dataset_folder(root, source)
    folder = named.path if named.plan.is_file() and not Path(source).is_dir() else Path(source)
    exported = bundles.export_model(
        folder, output, configurations=_names(config), folds=_names(folds)
    )
    exchange_tables.print_exported_model(exported, output, as_json=json)


def _names(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(name.strip() for name in given.split(","))
