"""Options that several commands share, by the same name and meaning everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        help="Folder of all results. Default: $SELFSEG_WORKSPACE or ./selfseg_workspace.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Parallel processes. Default: by cores and memory."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Forget former progress (default: resume).")
]
Init = Annotated[
    Path | None,
    typer.Option(
        "--init", metavar="MODEL", help="Start from a trained model: its folder or planned name."
    ),
]
InitConfig = Annotated[
    str | None, typer.Option("--init-config", help="Configuration of MODEL. Default: the same.")
]
InitFold = Annotated[
    str | None,
    typer.Option("--init-fold", help="Fold of MODEL. Default: all, else the same, else the first."),
]
Auxiliary = Annotated[
    str | None,
    typer.Option("--auxiliary", metavar="DATASET2", help="Train on this data set as well."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")]
