"""Open the model that a training starts from, and bring its weights into a fresh network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from selfseg.errors import ModelError
from selfseg.files import file_digest
from selfseg.inference.find import Candidate, choose_model, find_models
from selfseg.inference.model import describe_fold, load_fold
from selfseg.inference.trained import ALL_CASES, model_digest
from selfseg.networks.build import build_network
from selfseg.networks.weights import load_weights
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.plan import Configuration, Plan
from selfseg.records.pretraining import Pretrained
from selfseg.records.transfer import StartModel
from selfseg.training.job import TrainingJob
from selfseg.training.seen import seen_images
from selfseg.training.transfer import Ends, SourceModel, map_weights
from selfseg.training.tuning import Tuning, prepare_
from selfseg.workspace.network import PretrainedFolder

log = logging.getLogger(__name__)


def open_source(
    folder: Path,
    configuration: str | None = None,
    fold: str | None = None,
    *,
    like: tuple[str, str] | None = None,
) -> SourceModel:
    """Read a model to start from.

    Args:
        folder: A data set's folder in a workspace, any with plan.json and models/, or that of a
            pretrained network.
        configuration: Of the model; None: the one of the same name as is trained, or the only one.
        fold: Of the model; None: the one that was trained on all cases, else that of the same name
            as is trained, else the first.
        like: Configuration and fold that are to be trained.

    Raises:
        ModelError: There is no such model, or several without a choice.
    """
    if PretrainedFolder(folder).weights.is_file():
        return _open_pretrained(PretrainedFolder(folder), configuration, fold)
    name, same_fold = like or (None, None)
    candidate = _choose(folder, configuration, fold, name)
    chosen = fold or _default_fold(candidate.folds, same_fold)
    trained = describe_fold(candidate, chosen)
    network = load_fold(candidate, chosen, torch.device("cpu"))
    return SourceModel(
        model=StartModel(
            folder=str(candidate.folder.path),
            dataset=candidate.plan.dataset,
            configuration=candidate.configuration.name,
            fold=chosen,
            digest=model_digest(candidate.folder, candidate.configuration, chosen),
        ),
        files=candidate.folder.path,
        configuration=candidate.configuration,
        ends=Ends.of(candidate.plan, candidate.configuration),
        channels=candidate.plan.channels,
        labels=candidate.plan.targets.names,
        weights=network.state_dict(),
        train_cases=trained.train_cases,
        seen=seen_images(candidate, trained),
    )


def refuse_leak(source: SourceModel, dataset: Dataset, held_out: Sequence[str]) -> None:
    """Refuse a model that was trained on held-out cases, or on others of their groups.

    Scores would be too good. Where it is not known what a model has seen, that is said.

    Raises:
        ModelError: It was; names the cases.
    """
    seen, touched = source.seen_cases(dataset), source.touched_cases(dataset)
    leaks = [
        case.id if case.id in seen else f"{case.id} (by another case of group {case.group})"
        for case in dataset.cases
        if case.id in touched and case.id in held_out
    ]
    if leaks:
        more = f" and {len(leaks) - 3} more" if len(leaks) > 3 else ""
        raise ModelError(
            f"{source.model.title} was trained on cases that this fold holds out: "
            f"{', '.join(leaks[:3])}{more}",
            remedy="Start from the fold that holds out the same cases (--init-fold), or from "
            "another model.",
        )
    if source.seen.unknown and held_out:
        log.warning(
            "It is not known which images %s was trained on: if this fold holds out some of them, "
            "its scores are too good",
            " and ".join(source.seen.unknown),
        )


def refuse_misfit(source: SourceModel, plan: Plan, configuration: Configuration) -> None:
    """Refuse a model whose weights have no place in a configuration's network.

    Raises:
        ModelError: They have none.
    """
    network = build_network(
        configuration.network,
        channels=plan.input_channels(configuration),
        outputs=plan.targets.outputs,
    )
    map_weights(source, network.state_dict(), Ends.of(plan, configuration), configuration)


def start_(network: nn.Module, job: TrainingJob) -> Tuning:
    """Fill a fresh network with the weights that a job starts from; return how they learn.

    What became of each weight is written beside the fold; what a run said that was begun from a
    model, and ended before its first checkpoint, is removed by one without.

    Raises:
        ModelError: The model does not fit.
    """
    source = job.start
    if source is None:
        job.output.transfer.unlink(missing_ok=True)
        return Tuning()
    configuration = job.configuration
    target = Ends.of(job.plan, configuration)
    weights, report = map_weights(source, network.state_dict(), target, configuration)
    network.load_state_dict(weights)
    serial.save(report, job.output.transfer)
    log.info(
        "Starting from %s: %.1f %% of the weights loaded, %.1f %% adapted",
        source.model.title,
        100 * report.loaded_share,
        100 * report.adapted_share,
    )
    for note in report.notes:
        log.warning("Starting from %s: %s", source.model.dataset, note)
    return prepare_(network, configuration.network, configuration.transfer, report)


def _open_pretrained(
    files: PretrainedFolder, configuration: str | None, fold: str | None
) -> SourceModel:
    """Read a network that was pretrained without labels: it has no heads.

    Its digest is taken from the weights as they are: earlier versions wrote another one down.
    """
    made = serial.load(Pretrained, files.description)
    if fold is not None or configuration not in (None, made.configuration.name):
        raise ModelError(
            f"--init: {files.path} is {made.configuration.name}, pretrained without folds",
            remedy="Leave out --init-config and --init-fold.",
        )
    return SourceModel(
        model=made.model.model_copy(update={"digest": file_digest(files.weights)}),
        files=files.path,
        configuration=made.configuration,
        ends=Ends(made.configuration.network, made.channels, ()),
        channels=made.channels,
        labels=(),
        weights=load_weights(files.weights),
    )


def _choose(
    folder: Path, configuration: str | None, fold: str | None, like: str | None
) -> Candidate:
    there: set[str] = {found.configuration.name for found in find_models(folder)}
    same = like if like in there else None
    try:
        return choose_model(folder, configuration or same, None if fold is None else [fold])
    except ModelError as error:
        raise ModelError(
            f"--init: {error.message}",
            remedy="Choose one that is there with --init FOLDER --init-config NAME --init-fold K."
            if there
            else error.remedy,
        ) from error


def _default_fold(folds: Sequence[str], fold: str | None) -> str:
    if ALL_CASES in folds:
        return ALL_CASES
    return fold if fold is not None and fold in folds else folds[0]
