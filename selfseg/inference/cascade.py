"""Prediction in stages: a coarse configuration first, whose label map is the next one's input."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from selfseg.errors import ModelError
from selfseg.inference.export import label_map_path
from selfseg.inference.model import Model, find_models, load_model
from selfseg.inference.predictor import PredictionReport, predict_cases
from selfseg.records.dataset import Case

log = logging.getLogger(__name__)


class PredictionOptions(TypedDict, total=False):
    """Options of `predict_cases` that hold for every stage."""

    tta: bool
    step: float | None
    max_memory_gib: float | None
    workers: int


def predict_in_stages(
    model: Model,
    cases: Sequence[Case],
    output: Path,
    *,
    probabilities: bool = False,
    **options: Unpack[PredictionOptions],
) -> PredictionReport:
    """Segment cases with a model, in a cascade after segmenting them with its previous stage.

    The previous stage goes over all cases first, so that one network works at a time; its label
    maps lie in a hidden folder in `output` until the end. All its trained folds are averaged. A
    case that fails there is reported and left out.

    Args:
        model: From `load_model`.
        cases: Images to segment; paths are absolute.
        output: Folder of the label maps.
        probabilities: Also write probabilities, of the last stage.
        **options: As for `predict_cases`; they hold for every stage.

    Raises:
        ModelError: The previous stage is not trained.
    """
    stage = model.configuration.previous_stage
    if stage is None:
        return predict_cases(model, cases, output, probabilities=probabilities, **options)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{stage}.") as name:
        first = _predict_previous(model, cases, Path(name), **options)
        passed = [case for case in cases if case.id in first.done]
        last = predict_cases(
            model,
            passed,
            output,
            probabilities=probabilities,
            previous={case.id: label_map_path(Path(name), case) for case in passed},
            **options,
        )
    return PredictionReport(last.done, (*first.failed, *last.failed))


def load_previous(model: Model) -> Model:
    """Load the previous stage of a cascade from the same folder, on the same device.

    Raises:
        ModelError: It has no trained fold, or does not fit the plan.
    """
    stage = model.configuration.previous_stage
    if stage not in {found.configuration.name for found in find_models(model.folder)}:
        raise ModelError(
            f"{model.folder}: {model.configuration.name} needs the segmentation of {stage}, which "
            "has no trained fold",
            remedy=f"Run 'selfseg train {model.plan.dataset} {stage} FOLD', or bring its folder of "
            "models/ here.",
        )
    return load_model(model.folder, configuration=stage, device=model.device)


def _predict_previous(
    model: Model, cases: Sequence[Case], folder: Path, **options: Unpack[PredictionOptions]
) -> PredictionReport:
    """Write the previous stage's label maps; its network is gone when this returns."""
    previous = load_previous(model)
    log.info("Previous stage: %s", previous.description)
    return predict_cases(previous, cases, folder, **options)
