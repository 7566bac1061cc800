"""Say what a prediction is made by: digests of models and options, wherever the models lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from selfseg.files import file_digest
from selfseg.inference.cascade import previous_place
from selfseg.inference.find import choose_model
from selfseg.inference.model import Ensemble, default_folds
from selfseg.inference.trained import weights_digest
from selfseg.records import serial
from selfseg.records.plan import Configuration, Plan
from selfseg.records.prediction import PredictionBasis, UsedModel
from selfseg.workspace.dataset import DatasetFolder


def prediction_basis(ensemble: Ensemble, *, tta: bool, step: float | None) -> PredictionBasis:
    """Return what label maps of an ensemble depend on, with the options that the user gave.

    Raises:
        ModelError: A previous stage is not trained.
    """
    first = ensemble.members[0]
    return PredictionBasis(
        program=metadata.version("selfseg"),
        dataset=first.plan.dataset,
        members=tuple(
            _used(item.folder, item.plan, item.configuration, item.folds, step)
            for item in ensemble.members
        ),
        previous=tuple(_previous(ensemble, step)),
        tta=tta,
        engine=first.engine,
        crf=ensemble.crf,
        postprocessing=ensemble.steps,
    )


def _previous(ensemble: Ensemble, step: float | None) -> Iterator[UsedModel]:
    """Give the previous stages of all members, each once."""
    for model in {item.configuration.previous_stage: item for item in ensemble.members}.values():
        stage = model.configuration.previous_stage
        if stage is not None:
            found = choose_model(previous_place(model), stage, None)
            folds = default_folds(found.folds)
            yield _used(found.folder.path, found.plan, found.configuration, folds, step)


def _used(
    folder: Path,
    plan: Plan,
    configuration: Configuration,
    folds: Sequence[str],
    step: float | None,
) -> UsedModel:
    files = [DatasetFolder(folder).fold(configuration.name, fold) for fold in folds]
    return UsedModel(
        configuration=configuration.name,
        folds=tuple(folds),
        trained_as=weights_digest(plan, configuration),
        settings=serial.digest(configuration),
        weights=tuple(file_digest(item.weights) for item in files),
        shapes=tuple(file_digest(item.shape_tensors) for item in files),
        step=configuration.inference.step if step is None else step,
    )
