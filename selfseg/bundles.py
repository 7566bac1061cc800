"""A trained model as one file: a zip of plan, weights and descriptions, and nothing else."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from selfseg.errors import ModelError
from selfseg.files import arriving
from selfseg.inference.find import Candidate, dataset_folders, find_models
from selfseg.inference.trained import weights_digest
from selfseg.io.archive import unpack
from selfseg.networks.weights import read_metadata
from selfseg.plan_checks import check_plan
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Plan
from selfseg.records.selection import Selection
from selfseg.records.shape_model import ShapeModels
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.network import FoldFolder

FOREIGN = "Give a file that 'selfseg export MODEL -o FILE' has written."
_ALLOWED = re.compile(
    r"plan\.json|selection\.json|models/(?:"
    + "|".join(map(re.escape, get_args(ConfigurationName)))
    + r")/fold_(?:all|[0-9]+)/(?:(?:fold|shapes)\.json|(?:weights|shapes)\.safetensors)"
)


def export_model(model: Path, output: Path) -> tuple[str, ...]:
    """Write all trained folds of a model folder into one file, which appears whole or not at all.

    Args:
        model: A folder with plan.json and models/.
        output: The file.

    Returns:
        The files in it, relative to the folder.

    Raises:
        ModelError: Nothing is trained there, there are several data sets, or the output is a
            folder.
    """
    if output.is_dir():
        raise ModelError(
            f"-o {output}: is a folder", remedy=f"Give a file, such as {output / 'model.zip'}."
        )
    folders = dataset_folders(model)
    trained = find_models(model)
    if len(folders) != 1 or not trained:
        found = ", ".join(folder.path.name for folder in folders) or "none"
        raise ModelError(
            f"{model}: not one trained model; planned there: {found}",
            remedy="Give the folder of one data set, with plan.json and models/.",
        )
    files = _files(folders[0], trained)
    names = tuple(path.relative_to(folders[0].path).as_posix() for path in files)
    with (
        arriving(output) as temporary,
        # Weights hardly shrink: stored, the file is written and read much faster.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for path, name in zip(files, names, strict=True):
            archive.write(path, name)
    return names


def is_bundle(path: Path) -> bool:
    """Tell whether a file looks like an exported model."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "plan.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def unpack_bundle(path: Path, folder: Path) -> Plan:
    """Unpack an exported model into an empty folder and check all of it; return its plan.

    Raises:
        ModelError: There is anything else in it, a part is missing, or parts do not fit together.
        RecordError: A description is not what it should be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            foreign = [n for n in archive.namelist() if not _ALLOWED.fullmatch(n)]
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: no exported model ({error})", remedy=FOREIGN) from error
    if foreign:
        raise ModelError(f"{path}: has what no model has: {foreign[:3]}", remedy=FOREIGN)
    unpack(path, folder)
    dataset = DatasetFolder(folder)
    plan = serial.load(Plan, dataset.plan)
    check_plan(plan, remedy=FOREIGN)
    if dataset.selection.is_file():
        serial.load(Selection, dataset.selection)
    candidates = find_models(folder)
    if not candidates:
        raise ModelError(f"{path}: no trained fold in it", remedy=FOREIGN)
    for candidate in candidates:
        _check(path, plan, candidate)
    return plan


@contextmanager
def opened_model(path: Path) -> Iterator[Path]:
    """Give the folder of a model; that of a file is a temporary one.

    Raises:
        ModelError: The file is no exported model.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="selfseg-model-") as name:
        unpack_bundle(path, Path(name))
        yield Path(name)


def _files(dataset: DatasetFolder, trained: Sequence[Candidate]) -> list[Path]:
    """Return the files that prediction reads."""
    files = [dataset.plan, *([dataset.selection] if dataset.selection.is_file() else [])]
    for candidate in trained:
        for fold in candidate.folds:
            folder = dataset.fold(candidate.configuration.name, fold)
            files += [folder.description, folder.weights]
            if folder.shapes.is_file():
                files += [folder.shapes, *_existing(folder)]
    return files


def _existing(folder: FoldFolder) -> list[Path]:
    return [folder.shape_tensors] if folder.shape_tensors.is_file() else []


def _check(path: Path, plan: Plan, candidate: Candidate) -> None:
    """Read all descriptions of a configuration, and the headers of its tensors."""
    configuration = candidate.configuration
    for fold in candidate.folds:
        files = candidate.folder.fold(configuration.name, fold)
        trained = serial.load(TrainedFold, files.description)
        read_metadata(files.weights)
        if files.shapes.is_file():
            serial.load(ShapeModels, files.shapes)
        if trained.plan_digest != weights_digest(plan, configuration):
            raise ModelError(
                f"{path}: {configuration.name} fold {fold} was trained with another plan",
                remedy="Export the model again from where it was trained.",
            )
