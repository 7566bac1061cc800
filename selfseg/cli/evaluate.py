"""`selfseg evaluate`: score predictions against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


def evaluate(
    predictions: Annotated[Path, typer.Option("-p", "--predictions", help="Folder of label maps.")],
    references: Annotated[Path, typer.Option("-r", "--references", help="Folder of references.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write FILE.json and FILE.csv. Default: none."),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            metavar="MM or LABEL=MM",
            help="Tolerance of the normalized surface Dice in mm (default 1); repeatable.",
        ),
    ] = None,
    only_predicted: Annotated[
        bool, typer.Option("--only-predicted", help="Leave out references without a prediction.")
    ] = False,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="NAME[,NAME]",
            help="Metrics beside the usual ones: sliver07, chaos, topology, lesions.",
        ),
    ] = "overlap",
    field_of_view: Annotated[
        Path | None,
        typer.Option(
            "--field-of-view",
            help="Folder of masks, named as the references: nothing outside of them counts.",
        ),
    ] = None,
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score every case and label: overlap, surface distances in mm, volume."""
    from selfseg import pipeline
    from selfseg.cli import tables
    from selfseg.requests import parse_metrics

    table = pipeline.evaluate_predictions(
        predictions,
        references,
        output=output,
        tolerances=tuple(tolerance or ()),
        only_predicted=only_predicted,
        further=parse_metrics(metrics, field_of_view),
        workers=workers,
    )
    if json:
        typer.echo(table.model_dump_json(indent=1))
    else:
        tables.print_metrics(table)
