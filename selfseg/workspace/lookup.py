"""Folders found from what a user gives: of the workspace, of a data set, of a model."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from selfseg.errors import NoPlanError, RecordError, SelfSegError
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.workspace.dataset import DatasetFolder

DEFAULT_WORKSPACE = "selfseg_workspace"
ENVIRONMENT_VARIABLE = "SELFSEG_WORKSPACE"


def workspace_root(option: Path | None) -> Path:
    """Return the workspace folder: option, else environment variable, else the default."""
    return option or Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_WORKSPACE)


def race_home(folder: Path) -> Path | None:
    """Return the data set's folder in which an arm of a race lies; None if it is no such arm."""
    parents = folder.resolve().parents
    if len(parents) < 3 or parents[1].name != "race":
        return None
    return parents[2] if DatasetFolder(parents[2]).plan.is_file() else None


def dataset_folder(root: Path, name: str) -> DatasetFolder:
    """Return the folder of a dataset in a workspace."""
    return DatasetFolder(root / name)


def model_folder(root: Path, given: Path) -> Path:
    """Return the folder of a model; a bare name means a data set of the workspace."""
    named = dataset_folder(root, given.name)
    is_name = given == Path(given.name) and not DatasetFolder(given).plan.is_file()
    return named.path if is_name and named.plan.is_file() else given


def planned_names(root: Path) -> list[str]:
    """Return the names of all data sets that are planned in a workspace."""
    return sorted(path.parent.name for path in root.glob("*/plan.json"))


def planned_folder(root: Path, dataset: str) -> DatasetFolder:
    """Return the folder of a planned dataset, given by name or by its data folder.

    Raises:
        NoPlanError: There is no plan for it; what the workspace holds is listed.
        SelfSegError: The plan is that of another data folder of the same name.
    """
    declared = _declared_name(Path(dataset))
    for name in dict.fromkeys((dataset, declared, Path(dataset).name)):
        folder = dataset_folder(root, name)
        if name and folder.plan.is_file():
            if is_data_folder(folder, Path(dataset)):
                refuse_namesake(folder, Path(dataset))
            return folder
    names = ", ".join(planned_names(root)) or "none"
    raise NoPlanError(
        f"{dataset}: no plan in workspace {root} (planned there: {names})",
        remedy=f"Run 'selfseg plan {shlex.quote(dataset)} --workspace {shlex.quote(str(root))}' "
        "first."
        if Path(dataset).is_dir()
        else "Give one of these names, or plan a data folder with 'selfseg plan FOLDER'.",
    )


def is_data_folder(folder: DatasetFolder, given: Path) -> bool:
    """Tell whether a user gave a data folder: not a name, nor the folder in the workspace itself.

    That one holds a dataset.json of ours, which is no description of data.
    """
    described = (given / "dataset.json").is_file()
    return described and given.resolve() != folder.path.resolve()


def refuse_namesake(folder: DatasetFolder, root: Path) -> None:
    """Refuse data that is not what was planned in a folder; data that was moved is the same.

    Raises:
        SelfSegError: The folder holds another dataset of the same name, or a model without
            its data, which could not be used any more with another plan beside it.
    """
    if folder.is_model_alone:
        raise SelfSegError(
            f"{folder.path} holds a model from elsewhere, trained on data of this name",
            remedy="Give the data set another 'name' in its dataset.json, use another "
            "--workspace, or move the model: it can lie anywhere.",
        )
    try:
        former = Path(serial.load(Dataset, folder.dataset).root)
    except RecordError:
        return
    if former.is_dir() and former.resolve() != root.resolve():
        raise SelfSegError(
            f"{folder.path} holds another dataset of this name, read from {former}",
            remedy="Give one of them another 'name' in its dataset.json, or use another "
            "--workspace.",
        )


def _declared_name(folder: Path) -> str:
    """Return the `name` in a folder's dataset.json, or an empty string."""
    try:
        described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = described.get("name") if isinstance(described, dict) else None
    return name if isinstance(name, str) else ""
