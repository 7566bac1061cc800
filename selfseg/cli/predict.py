"""`selfseg predict`: segment new images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selfseg.cli import options


class Engine(StrEnum):
    """What computes the networks."""

    torch = "torch"
    openvino = "openvino"


def predict(
    source: Annotated[Path, typer.Option("-i", "--input", help="A folder or one image.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the label maps.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "-m", "--model", help="Model folder, file or planned name. Default: the workspace's."
        ),
    ] = None,
    workspace: options.Workspace = None,
    config: Annotated[str | None, typer.Option("--config", help="Configuration to use.")] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Folds to average, such as 0,1,2 or all.")
    ] = None,
    tta: Annotated[
        bool | None,
        typer.Option("--tta/--no-tta", help="Average over mirrored images. Default: the plan's."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write probabilities as well.")
    ] = False,
    continue_: Annotated[
        bool,
        typer.Option("--continue", help="Keep what the same model and options have made."),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="N/PARTS", help="2/8: every eighth case from the second."),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option("--max-memory", help="Most memory that the program may hold, such as 4GB."),
    ] = None,
    step: Annotated[
        float | None, typer.Option("--step", min=0.05, max=1.0, help="Window step in patches.")
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="openvino: may be faster on CPUs, checked against torch."),
    ] = Engine.torch,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Segment images with a trained model; results have exactly the geometry of the input."""
    from selfseg import pipeline, requests
    from selfseg.cli import tables
    from selfseg.workspace.lookup import model_folder, workspace_root

    root = workspace_root(workspace)
    result = pipeline.predict_images(
        requests.PredictRequest(
            source=source,
            output=output,
            model=root if model is None else model_folder(root, model),
            configuration=config,
            folds=None if folds is None else tuple(fold.strip() for fold in folds.split(",")),
            tta=tta,
            probabilities=probabilities,
            resume=continue_,
            part=part,
            max_memory=max_memory,
            step=step,
            engine=engine.value,
            device=device,
            workers=workers,
        )
    )
    tables.print_predictions(result, output, as_json=json)
    if result.failed:
        raise typer.Exit(1)
