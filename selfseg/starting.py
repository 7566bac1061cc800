"""What a plan or a training starts from: folders of ours, model files, models of nnU-Net."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg.errors import ModelError
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Configuration, Plan
from selfseg.records.transfer import PRETRAINED, Start
from selfseg.requests import StartRequest
from selfseg.workspace.dataset import DatasetFolder

if TYPE_CHECKING:
    from selfseg.inference.trained import PlannedDataset
    from selfseg.training.transfer import SourceModel

log = logging.getLogger(__name__)


def planned_as(request: StartRequest, configuration: ConfigurationName | None, root: Path) -> Start:
    """Return how a plan names a model: one within the workspace relative to it.

    Args:
        request: The model, as asked for.
        configuration: Of the model, where it is known already.
        root: Workspace.
    """
    folder, home = request.folder.resolve(), root.resolve()
    shown = folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)
    return Start(folder=shown, configuration=configuration, fold=request.fold)


def pinned(start: Start, model: SourceModel) -> Start:
    """Return a start with the digests of the weights that it stands for now.

    Args:
        start: That does not say yet which weights are meant.
        model: What it leads to; which fold is taken may depend on the fold that is trained.
    """
    from selfseg.inference.trained import model_digest, trained_folds

    folder = DatasetFolder(model.files)
    folds = () if start.fold else trained_folds(folder, model.configuration.name)
    others = (model_digest(folder, model.configuration, fold) for fold in folds)
    weights = tuple(sorted({model.model.digest, *others}))
    return start.model_copy(update={"weights": weights})


def is_planned(request: StartRequest, start: Start | None, root: Path) -> bool:
    """Tell whether what a plan was made to fit is the model that is asked for."""
    asked = planned_as(request, None, root)
    if start is None or asked.folder != start.folder or asked.fold != start.fold:
        return False
    return request.configuration in (None, start.configuration)


def start_of_fold(
    known: PlannedDataset,
    configuration: Configuration,
    fold: str,
    held_out: Sequence[str],
    asked: StartRequest | None = None,
) -> SourceModel | None:
    """Return the model that a training is to start from; None: random weights.

    What is asked for goes before the start of the plan.

    Args:
        known: Data and plan.
        configuration: Of the plan.
        fold: That is to be trained.
        held_out: Its validation cases.
        asked: Model in place of the plan's.

    Raises:
        ModelError: There is no such model, it has seen a held-out case, or its weights are not
            those that the plan was made to fit.
    """
    from selfseg.training.second_encoder import refuse_two_starts
    from selfseg.training.start import refuse_leak

    planned = configuration.start
    if asked is None and planned is not None:
        folder = known.folder.workspace / planned.folder
        request = StartRequest(folder, planned.configuration, planned.fold)
        try:
            source = start_of_fold(known, configuration, fold, held_out, request)
        except ModelError as error:
            raise _as_planned(error, configuration) from error
        if source is not None and planned.weights:
            _refuse_others(source, planned, configuration)
        return source
    if asked is None:
        return None
    refuse_two_starts(configuration)
    with opened_start(asked, like=(configuration.name, fold)) as source:
        refuse_leak(source, known.dataset, held_out)
        return source


def _refuse_others(source: SourceModel, planned: Start, configuration: Configuration) -> None:
    """Refuse weights that were not there when the plan was made."""
    if source.model.digest not in planned.weights:
        place = f"configurations.{configuration.name}.start"
        again = "Plan again with --init"
        if source.model.fold == PRETRAINED:
            again = "Run 'selfseg pretrain' again, and 'selfseg race',"
        raise ModelError(
            f"the start of {configuration.name} in plan.json: the weights of {source.model.title} "
            "are not those that the plan was made to fit",
            remedy=f"{again} to judge them as they are now, put the former ones back, or take them "
            f"all the same: remove 'weights' of {place} in plan.json.",
        )


def _as_planned(error: ModelError, configuration: Configuration) -> ModelError:
    """Return an error about a start that a plan asks for, not the user."""
    name = configuration.name
    return ModelError(
        f"the start of {name} in plan.json: {error.message.removeprefix('--init: ')}",
        remedy=f"Give another model with --init, or edit plan.json: configurations.{name}.start is "
        "what trainings start from (null: random weights), 'nominated' what races try.",
    )


def tell_of_random_weights(plan: Plan, name: str, fold: str) -> None:
    """Say why a configuration that may start from a model does not."""
    title = f"{name} fold {fold} starts from random weights"
    starts = [i for i in plan.nominated if i.configuration == name and i.start is not None]
    for idea in starts:
        if not idea.trials:
            log.warning("%s: no race has tried %s yet ('selfseg race')", title, idea.name)
        elif not idea.trials[-1].accepted:
            log.info("%s: a race rejected %s (%s)", title, idea.name, idea.trials[-1].because)
    if plan.init is not None and plan.init.configuration == name and not starts:
        found = next((d.value for d in plan.decisions if d.rule == "start"), "not nominated")
        log.warning("%s: what the plan was made to fit is %s", title, found)


@contextmanager
def opened_start(
    request: StartRequest, *, like: tuple[str, str] | None = None
) -> Iterator[SourceModel]:
    """Give the model that is asked for; its files may be temporary ones.

    Args:
        request: Which one.
        like: Configuration and fold that are to be trained.

    Raises:
        ModelError: There is no such model, or several without a choice.
    """
    from selfseg.training.start import open_source

    with _readable(request.folder) as folder:
        source = open_source(folder, request.configuration, request.fold, like=like)
        if folder != request.folder:
            named = source.model.model_copy(update={"folder": str(request.folder)})
            source = replace(source, model=named)
        yield source


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Give a folder of ours with the model that lies at a path."""
    from selfseg.importing import import_model

    if not _is_foreign(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="selfseg-model-") as name:
        yield import_model(path, output=Path(name) / "model", workspace=Path(name)).folder


def _is_foreign(path: Path) -> bool:
    """Tell whether a model has to be unpacked or imported; False where there is none at all."""
    from selfseg.inference.find import find_models
    from selfseg.io.nnunet.folders import find_model_folders
    from selfseg.workspace.network import PretrainedFolder

    if path.is_file():
        return True
    if PretrainedFolder(path).weights.is_file() or find_models(path):
        return False
    try:
        return bool(find_model_folders(path))
    except ModelError:
        return False
