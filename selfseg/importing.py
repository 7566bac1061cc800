"""Models from elsewhere become folders of ours: read once, written whole or not at all."""

from __future__ import annotations

import logging
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfseg.bundles import is_bundle, unpack_bundle
from selfseg.errors import ModelError
from selfseg.inference.find import dataset_folders, find_models
from selfseg.inference.trained import weights_digest
from selfseg.io.archive import unpack
from selfseg.io.nnunet.checkpoint import ReadCheckpoint, read_checkpoints
from selfseg.io.nnunet.folders import DATASET, PLANS, ModelFolder, find_model_folders
from selfseg.io.nnunet.plan import Described, Source, make_plan, our_name, read_described
from selfseg.io.nnunet.plans import read_plans
from selfseg.plan_checks import check_plan
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.records.network import ResidualUNet, UNet
from selfseg.records.plan import Configuration, Plan
from selfseg.words import counted
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import dataset_folder

log = logging.getLogger(__name__)

STEPS_PER_EPOCH = 250  # of nnU-Net's trainers
_FOLDER_NAME = re.compile(r"[^./\\:*?\"<>|\x00-\x1f][^/\\:*?\"<>|\x00-\x1f]{0,99}")


@dataclass(frozen=True)
class ImportedFold:
    """One fold: what it became, and what it was read from."""

    trained: TrainedFold
    trainer: str
    checkpoint: str


@dataclass(frozen=True)
class ImportResult:
    """What was imported, and where it lies."""

    folder: Path
    plan: Plan
    folds: tuple[ImportedFold, ...]


@dataclass(frozen=True)
class _Read:
    """A model folder with the checkpoints in it, folds in the same order."""

    model: ModelFolder
    checkpoints: tuple[ReadCheckpoint, ...]
    source: Source


def import_model(source: Path, *, output: Path | None, workspace: Path) -> ImportResult:
    """Read a model file that `selfseg export` wrote, or a model of nnU-Net v2.

    The arguments and errors are those of `import_nnunet`.
    """
    if not source.exists():
        raise ModelError(f"{source}: no such folder or file", remedy="Check the path.")
    _refuse_ours(source)
    if source.is_file() and is_bundle(source):
        return _import_bundle(source, output=output, workspace=workspace)
    return import_nnunet(source, output=output, workspace=workspace)


def _refuse_ours(source: Path) -> None:
    """Refuse a model folder of ours, or the models/ in it: there is nothing to import."""
    for folder in dataset_folders(source):
        if source in (folder.path, folder.models) and folder.models.is_dir():
            raise ModelError(
                f"{source}: is a model folder of selfseg already",
                remedy="Use it as it is, wherever it lies: 'selfseg predict -m "
                f"{shlex.quote(str(folder.path))} -i IN -o OUT'.",
            )


def _import_bundle(source: Path, *, output: Path | None, workspace: Path) -> ImportResult:
    with _arrival(output, workspace) as scratch:
        made = DatasetFolder(scratch / "model")
        made.path.mkdir()
        plan = unpack_bundle(source, made.path)
        folds = tuple(
            serial.load(TrainedFold, made.fold(item.configuration.name, fold).description)
            for item in find_models(made.path)
            for fold in item.folds
        )
        target = _settle(made.path, plan, output, workspace)
    return ImportResult(target, plan, tuple(ImportedFold(f, "", source.name) for f in folds))


@contextmanager
def _arrival(output: Path | None, workspace: Path) -> Iterator[Path]:
    """Give a scratch folder on the disk that the model will lie on."""
    parent = output.parent if output is not None else workspace
    parent.mkdir(parents=True, exist_ok=True)
    if output is not None:
        _refuse_occupied(output)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".import.") as name:
        yield Path(name)


def _settle(made: Path, plan: Plan, output: Path | None, workspace: Path) -> Path:
    """Move a finished model to its place; return that."""
    if output is None and not _FOLDER_NAME.fullmatch(plan.dataset):
        raise ModelError(
            f"data set {plan.dataset!r}: the name cannot be a folder's name",
            remedy="Choose a folder with -o.",
        )
    target = output or dataset_folder(workspace, plan.dataset).path
    _refuse_occupied(target)
    if target.is_dir():
        target.rmdir()  # empty: that was checked
    made.replace(target)
    return target


def import_nnunet(source: Path, *, output: Path | None, workspace: Path) -> ImportResult:
    """Write the model folder of a trained nnU-Net.

    Args:
        source: A model folder of nnU-Net (or one that holds several configurations), or a zip.
        output: Where the model goes; default: a folder of the data set's name in the workspace.
        workspace: Root of the workspace.

    Raises:
        ModelError: It cannot be read, computes something that ours does not, or stands there
            already. Nothing is written then.
    """
    with _arrival(output, workspace) as scratch:
        root = source
        if not source.is_dir():
            root = scratch / "unpacked"
            root.mkdir()
            unpack(source, root)
        read, described = _read_models(root, scratch)
        plan = make_plan([item.source for item in read], described)
        _check(plan, root)
        made = DatasetFolder(scratch / "model")
        folds = _write(plan, read, made)
        target = _settle(made.path, plan, output, workspace)
    return ImportResult(target, plan, folds)


def _refuse_occupied(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ModelError(
            f"{target}: exists already", remedy="Choose another folder with -o, or delete this one."
        )


def _read_models(root: Path, scratch: Path) -> tuple[list[_Read], Described]:
    """Read all checkpoints in one process; tell the configurations apart."""
    models = find_model_folders(root)
    described = [read_described(model.path) for model in models]
    different = [m.path for m, item in zip(models, described, strict=True) if item != described[0]]
    if different:
        raise ModelError(
            f"{different[0] / DATASET}: other channels or labels than {models[0].path / DATASET}",
            remedy="Import these models one by one.",
        )
    number = sum(len(model.folds) for model in models)
    log.info("Reading %s", counted(number, "checkpoint"))
    every = read_checkpoints([f.checkpoint for m in models for f in m.folds], scratch)
    read, first = [], 0
    for model in models:
        checkpoints = every[first : first + len(model.folds)]
        first += len(model.folds)
        read.append(_Read(model, checkpoints, _source(model, checkpoints)))
    _refuse_doubles(read)
    return read, described[0]


def _source(model: ModelFolder, checkpoints: Sequence[ReadCheckpoint]) -> Source:
    names = {item.facts.configuration for item in checkpoints}
    if len(names) > 1:
        raise ModelError(
            f"{model.path}: folds of several configurations: {', '.join(sorted(names))}",
            remedy="Keep one configuration in a folder, as nnU-Net does.",
        )
    plans = read_plans(model.path / PLANS)
    axes = sorted({axis for item in checkpoints for axis in item.facts.mirror_axes})
    return Source(model.path, plans, names.pop(), tuple(axes))


def _refuse_doubles(read: Sequence[_Read]) -> None:
    """Refuse two models of one configuration, and a cascade without what comes before."""
    places: dict[str, Path] = {}
    for item in read:
        name = our_name(item.source.configuration, source=str(item.model.path))
        if name in places:
            raise ModelError(
                f"{item.model.path} and {places[name]} are both {name}",
                remedy="Give the folder of one of them.",
            )
        places[name] = item.model.path


def _check(plan: Plan, root: Path) -> None:
    names = {item.name for item in plan.configurations}
    for item in plan.configurations:
        if item.previous_stage is not None and item.previous_stage not in names:
            raise ModelError(
                f"{root}: {item.name} needs {item.previous_stage}, which is not in it",
                remedy="Give a folder or zip that holds both, such as nnU-Net's folder of the "
                "data set.",
            )
    check_plan(plan, remedy="This model cannot run here.")


def _write(plan: Plan, read: Sequence[_Read], made: DatasetFolder) -> tuple[ImportedFold, ...]:
    """Write plan, weights and descriptions."""
    made.path.mkdir()
    imported = []
    for item, configuration in zip(read, plan.configurations, strict=True):
        for file, checkpoint in zip(item.model.folds, item.checkpoints, strict=True):
            trained = _describe(plan, configuration, file.fold, checkpoint)
            files = made.fold(configuration.name, file.fold)
            _write_weights(plan, configuration, checkpoint, files.weights)
            serial.save(trained, files.description)
            name = f"{file.checkpoint.parent.name}/{file.checkpoint.name}"
            imported.append(ImportedFold(trained, checkpoint.facts.trainer, name))
    serial.save(plan, made.plan)
    return tuple(imported)


def _describe(
    plan: Plan, configuration: Configuration, fold: str, checkpoint: ReadCheckpoint
) -> TrainedFold:
    facts = checkpoint.facts
    return TrainedFold(
        configuration=configuration.name,
        fold=fold,
        plan_digest=weights_digest(plan, configuration),
        dataset=plan.dataset,
        seed=0,
        epochs=facts.epochs,
        steps=facts.epochs * STEPS_PER_EPOCH,
        seconds=0.0,
        precision="",
        mirror_axes=facts.mirror_axes,
        train_cases=(),
        validation_cases=(),
    )


def _write_weights(
    plan: Plan, configuration: Configuration, checkpoint: ReadCheckpoint, path: Path
) -> None:
    """Write a checkpoint's tensors under our names, if they fit the network of the plan."""
    from selfseg.io.nnunet.names import rename
    from selfseg.networks.weights import load_weights, save_weights

    network = configuration.network
    assert isinstance(network, UNet | ResidualUNet)
    source = str(checkpoint.source)
    tensors = rename(load_weights(checkpoint.tensors), network, source=source)
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in _shapes(plan, configuration).items()
        if tuple(tensors[name].shape) != shape
    ]
    if wrong:
        raise ModelError(
            f"{source}: weights do not fit the plans ({checkpoint.facts.trainer}): "
            f"{'; '.join(wrong[:3])}",
            remedy="Bring the plans.json that this checkpoint was trained with.",
        )
    save_weights(tensors, path)


def _shapes(plan: Plan, configuration: Configuration) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network, without making them."""
    import torch

    from selfseg.networks.build import build_network

    with torch.device("meta"):
        network = build_network(
            configuration.network,
            channels=plan.input_channels(configuration),
            outputs=plan.targets.outputs,
        )
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
