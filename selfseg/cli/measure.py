"""`selfseg measure`: size, place and intensities of every lesion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def measure(
    masks: Annotated[Path, typer.Option("-p", "--masks", help="Folder of label maps.")],
    images: Annotated[
        Path | None,
        typer.Option("-i", "--images", help="Folder of their images. Default: no intensities."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write FILE.json and FILE.csv. Default: none."),
    ] = None,
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure every lesion: volume in ml, diameters in mm, place, intensities."""
    from selfseg import classifying
    from selfseg.cli import classify_tables

    table = classifying.measure_lesions(masks, images, output=output, workers=workers)
    if json:
        typer.echo(table.model_dump_json(indent=1))
    else:
        classify_tables.print_measurements(table)
