"""A trained model as one file: a zip of plan, weights and descriptions, and nothing else."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from selfseg.choosing import Chosen, choose_folds
from selfseg.errors import ModelError, SelfSegError
from selfseg.files import arriving
from selfseg.inference.find import Candidate, dataset_folders, find_models
from selfseg.inference.trained import weights_digest
from selfseg.io.archive import DAMAGED, unpack
from selfseg.networks.weights import read_metadata
from selfseg.plan_checks import check_plan
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Plan
from selfseg.records.selection import Selection
from selfseg.records.shape_model import ShapeModels
from selfseg.workspace.dataset import DatasetFolder

FOREIGN = "Give a file that 'selfseg export MODEL -o FILE' has written."
_ALLOWED = re.compile(
    r"plan\.json|selection\.json|models/(?:"
    + "|".join(map(re.escape, get_args(ConfigurationName)))
    + r")/fold_(?:all|[0-9]+)/(?:(?:fold|shapes)\.json|(?:weights|shapes)\.safetensors)"
)


@dataclass(frozen=True)
class Exported:
    """What an exported model holds.

    Attributes:
        files: Names in the file.
        folds: Configurations and folds, such as `3d_fullres: 0, 1`.
        because: Why these.
    """

    files: tuple[str, ...]
    folds: tuple[str, ...]
    because: str


def export_model(
    model: Path,
    output: Path,
    *,
    configurations: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
) -> Exported:
    """Write trained folds of a model folder into one file, which appears whole or not at all.

    Args:
        model: A folder with plan.json and models/.
        output: The file.
        configurations: Default: of what was selected, without a selection all that are trained.
        folds: Of these configurations; default: the same. Previous stages have all that
            prediction averages.

    Raises:
        ModelError: Nothing is trained there, or not what is asked for; there are several data
            sets, or the output exists already.
    """
    if output.is_dir():
        raise ModelError(
            f"-o {output}: is a folder", remedy=f"Give a file, such as {output / 'model.zip'}."
        )
    if output.exists():
        raise ModelError(
            f"-o {output}: exists already", remedy="Choose another file, or delete this one."
        )
    folders = dataset_folders(model)
    if len(folders) != 1 or not find_models(model):
        found = ", ".join(folder.path.name for folder in folders) or "none"
        raise ModelError(
            f"{model}: not one trained model; planned there: {found}",
            remedy="Give the folder of one data set, with plan.json and models/.",
        )
    chosen = choose_folds(folders[0], configurations, folds)
    contents = _contents(folders[0], chosen)
    with (
        arriving(output) as temporary,
        # Weights hardly shrink: stored, the file is written and read much faster.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for path, content in contents.items():
            name = path.relative_to(folders[0].path).as_posix()
            if content is None:
                archive.write(path, name)
            else:
                archive.writestr(name, serial.text(content))
    return Exported(
        tuple(path.relative_to(folders[0].path).as_posix() for path in contents),
        tuple(f"{name}: {', '.join(folds)}" for name, folds in chosen.folds.items()),
        chosen.because,
    )


def is_bundle(path: Path) -> bool:
    """Tell whether a file looks like an exported model."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "plan.json" in archive.namelist()
    except (*DAMAGED, OSError):
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
    except (*DAMAGED, OSError) as error:
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
    """Give the folder of a model; that of a file is a temporary one, which no error names.

    Raises:
        ModelError: The file is no exported model.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="selfseg-model-") as name:
        try:
            unpack_bundle(path, Path(name))
            yield Path(name)
        except SelfSegError as error:  # what is wrong in there is wrong in the file
            error.message = error.message.replace(name, str(path))
            error.remedy = error.remedy.replace(name, str(path))
            raise


def _contents(dataset: DatasetFolder, chosen: Chosen) -> dict[Path, serial.Record | None]:
    """Return the files that prediction reads; None: as they are. Records lose the ids of cases."""
    contents: dict[Path, serial.Record | None] = {dataset.plan: None}
    if chosen.selection is not None:
        contents[dataset.selection] = _without_cases(chosen.selection)
    for configuration, folds in chosen.folds.items():
        for fold in folds:
            files = dataset.fold(configuration, fold)
            trained = serial.load(TrainedFold, files.description)
            nobody = {"train_cases": (), "validation_cases": ()}
            contents[files.description] = trained.model_copy(update=nobody)
            contents[files.weights] = None
            if files.shapes.is_file():
                shapes = serial.load(ShapeModels, files.shapes)
                models = tuple(m.model_copy(update={"cases": ()}) for m in shapes.models)
                contents[files.shapes] = shapes.model_copy(update={"models": models})
                if files.shape_tensors.is_file():
                    contents[files.shape_tensors] = None
    return contents


def _without_cases(selection: Selection) -> Selection:
    candidates = tuple(item.model_copy(update={"cases": {}}) for item in selection.candidates)
    return selection.model_copy(update={"candidates": candidates})


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
