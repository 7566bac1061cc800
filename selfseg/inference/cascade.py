"""Prediction in stages: a coarse configuration first, whose label map is the next one's input."""

from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from selfseg.errors import ModelError
from selfseg.inference.export import label_map_path
from selfseg.inference.find import find_models
from selfseg.inference.journal import Journal
from selfseg.inference.model import Model, load_model
from selfseg.inference.predictor import PredictionReport, predict_cases
from selfseg.records.dataset import Case
from selfseg.words import named
from selfseg.workspace.lookup import race_home

log = logging.getLogger(__name__)


class PredictionOptions(TypedDict, total=False):
    """Options of `predict_cases` that hold for every stage."""

    tta: bool
    step: float | None
    max_memory_gib: float | None
    workers: int


@dataclass(frozen=True)
class StageMaps:
    """What previous stages have made of cases.

    Attributes:
        by_stage: For each stage the label map of each case.
        failed: Ids and messages of cases that failed in any of them.
    """

    by_stage: dict[str, dict[str, Path]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, model: Model) -> dict[str, Path] | None:
        """Return the label maps that a model needs; None outside a cascade."""
        stage = model.configuration.previous_stage
        return None if stage is None else self.by_stage[stage]


@contextmanager
def previous_stages(
    models: Sequence[Model],
    cases: Sequence[Case],
    output: Path,
    *,
    journal: Journal | None = None,
    **options: Unpack[PredictionOptions],
) -> Iterator[StageMaps]:
    """Give the label maps of all previous stages that some models need, each stage run once.

    A stage goes over all cases before the next one, so that one network works at a time; all its
    trained folds are averaged. The weights of `models` wait in main memory, and count in
    `max_memory_gib`. The label maps lie in a hidden folder in `output` until the end; with a
    journal they outlast it, are taken from there if it resumes, and are removed by
    `Journal.remove_previous`.

    Raises:
        ModelError: A previous stage is not trained.
    """
    if (limit := options.get("max_memory_gib")) is not None:
        waiting = sum(model.weights_gib for model in models)
        options["max_memory_gib"] = max(limit - waiting, 0.0)
    maps = StageMaps()
    needed = {model.configuration.previous_stage: model for model in models}
    with ExitStack() as stack:
        for stage, model in needed.items():
            if stage is None:
                continue
            if journal is not None:
                stage_journal = journal.of_stage(stage)
                folder = stage_journal.output
                made = (
                    {entry.case for entry in stage_journal.finished(cases)}
                    if journal.resume
                    else set()
                )
            else:
                output.mkdir(parents=True, exist_ok=True)
                scratch = tempfile.TemporaryDirectory(dir=output, prefix=f".{stage}.")
                stage_journal, folder, made = None, Path(stack.enter_context(scratch)), set()
            left = [case for case in cases if case.id not in made]
            report = _predict_previous(model, left, folder, stage_journal, **options)
            maps.failed.update(report.failed)
            maps.by_stage[stage] = {
                case.id: label_map_path(folder, case)
                for case in cases
                if case.id in made or case.id in report.done
            }
        yield maps


def load_previous(model: Model) -> Model:
    """Load the previous stage of a cascade from the same folder, on the same device.

    Raises:
        ModelError: It has no trained fold, or does not fit the plan.
    """
    return load_model(
        previous_place(model),
        configuration=model.configuration.previous_stage,
        device=model.device,
        engine=model.engine,
    )


def previous_place(model: Model) -> Path:
    """Return the folder that has the previous stage of a cascade.

    An arm of a race has its own models of the cascade alone; the stage is the data set's.

    Raises:
        ModelError: There is none.
    """
    stage = model.configuration.previous_stage
    for place in (model.folder, race_home(model.folder)):
        if place is None:
            continue
        if stage in {found.configuration.name for found in find_models(place)}:
            return place
    raise ModelError(
        f"{model.folder}: {model.configuration.name} needs the segmentation of {stage}, which "
        "has no trained fold",
        remedy=f"Run 'selfseg train {shlex.quote(model.plan.dataset)} {stage} FOLD', or bring its "
        "folder of models/ here.",
    )


def _predict_previous(
    model: Model,
    cases: Sequence[Case],
    folder: Path,
    journal: Journal | None,
    **options: Unpack[PredictionOptions],
) -> PredictionReport:
    """Write the previous stage's label maps; its network is gone when this returns."""
    previous = load_previous(model)
    folds = named("fold", previous.folds)
    log.info("Previous stage: %s (%s)", previous.configuration.name, folds)
    return predict_cases(previous, cases, folder, journal=journal, **options)
