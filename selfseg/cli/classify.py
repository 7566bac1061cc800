"""`selfseg classify`: benign or malignant, from segmented lesions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfseg.cli import options
from selfseg.errors import SelfSegError

if TYPE_CHECKING:
    from selfseg.classifying import NetworkRequest

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Images = Annotated[Path, typer.Option("-i", "--images", help="Folder of images.")]
Masks = Annotated[
    list[Path],
    typer.Option(
        "-p",
        "--masks",
        help="Folder of label maps: references, or predictions. Repeatable, one a fold.",
    ),
]
Labels = Annotated[
    Path,
    typer.Option("-l", "--labels", help="CSV with columns case, label; optional: group, lesion."),
]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column of the two classes.")]
Positive = Annotated[
    str | None,
    typer.Option("--positive", help="Class whose probability is wanted. Default: 1, yes or true."),
]


Segmentation = Annotated[
    Path | None,
    typer.Option("--segmentation", help="Trained segmentation model or file, for deep features."),
]


class Features(StrEnum):
    """What a classifier sees."""

    radiomics = "radiomics"
    deep = "deep"
    both = "both"


@app.command("train")
def train(
    images: Images,
    masks: Masks,
    labels: Labels,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of all results.")],
    label_column: LabelColumn = "label",
    positive: Positive = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region", help="Label or region of the masks that is classified. Default: all."
        ),
    ] = None,
    features: Annotated[
        Features, typer.Option("--features", help="Features that are offered.")
    ] = Features.radiomics,
    segmentation: Segmentation = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Configuration of --segmentation.")
    ] = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Fold of --segmentation.")] = None,
    device: options.Device = "auto",
    planner: Annotated[str, typer.Option("--planner", help="Whose rules decide.")] = "default",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compute features of regions, validate by patient, fit a classifier."""
    from selfseg import classifying
    from selfseg.cli import classify_tables

    trained = classifying.train_classifier(
        classifying.ClassifyRequest(
            images=images,
            masks=tuple(masks),
            labels=labels,
            output=output,
            label_column=label_column,
            positive=positive,
            region=region,
            features=features.value,
            network=_network(segmentation, config, fold, device),
            planner=planner,
            workers=workers,
            seed=seed,
        )
    )
    if json:
        typer.echo(trained.model.scores.model_dump_json(indent=1))
    else:
        classify_tables.print_training(trained, output)


@app.command("predict")
def predict(
    images: Images,
    masks: Masks,
    model: Annotated[
        Path, typer.Option("-m", "--model", help="Folder of 'classify train', or its model.json.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV file of probabilities.")],
    segmentation: Segmentation = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Give every region of new masks its probability."""
    from selfseg import classifying
    from selfseg.cli import classify_tables

    network = _network(segmentation, None, None, device)
    found = classifying.predict_classes(
        images, masks, model, output, network=network, workers=workers
    )
    if json:
        typer.echo(classify_tables.predictions_json(found))
    else:
        classify_tables.print_predictions(found, output)


@app.command("evaluate")
def evaluate(
    predictions: Annotated[
        Path, typer.Option("-p", "--predictions", help="CSV of 'classify predict'.")
    ],
    labels: Labels,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write scores as JSON. Default: none.")
    ] = None,
    label_column: LabelColumn = "label",
    positive: Positive = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare probabilities with labels: AUC with interval, sensitivity, specificity, Brier."""
    from selfseg import classifying
    from selfseg.cli import classify_tables

    scores = classifying.evaluate_classes(
        predictions, labels, label_column=label_column, positive=positive, output=output, seed=seed
    )
    if json:
        typer.echo(scores.model_dump_json(indent=1))
    else:
        classify_tables.print_scores(scores, "Probabilities against labels")


def _network(
    folder: Path | None, configuration: str | None, fold: str | None, device: str
) -> NetworkRequest | None:
    from selfseg.classifying import NetworkRequest

    if folder is not None:
        return NetworkRequest(folder, configuration, fold, device)
    if configuration is not None or fold is not None:
        raise SelfSegError(
            "--config and --fold choose from a model, but there is none",
            remedy="Give it with --segmentation MODEL.",
        )
    return None
