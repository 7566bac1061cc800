"""What leaves: a trained model as one file, a data set in nnU-Net's layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from selfseg.errors import NoPlanError, SelfSegError
from selfseg.io.formats import read_dataset
from selfseg.io.nnunet.raw import write_raw
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import planned_folder, planned_names


def export_dataset(source: str, output: Path, *, workspace: Path) -> Dataset:
    """Write a data set in nnU-Net's raw layout; the folder appears whole or not at all.

    Args:
        source: Data folder; or name or workspace folder of a planned data set, whose folds are
            written as well.
        output: A new or empty folder, such as `nnUNet_raw/Dataset001_NAME`.
        workspace: Root of the workspace.

    Raises:
        SelfSegError: There is no such data set, it cannot be read, or the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SelfSegError(f"{output}: is not empty", remedy="Choose a new folder with -o.")
    planned = _planned(source, workspace)
    if planned is None:
        dataset, splits = read_dataset(Path(source)), None
    else:
        dataset = serial.load(Dataset, planned.dataset)
        splits = serial.load(Splits, planned.splits)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export.") as name:
        made = Path(name) / "dataset"
        write_raw(dataset, made, splits)
        if output.is_dir():
            output.rmdir()
        made.replace(output)
    return dataset


def _planned(source: str, workspace: Path) -> DatasetFolder | None:
    """Return the workspace's folder of a planned data set; None for a data folder."""
    given = DatasetFolder(Path(source))
    if given.plan.is_file() and given.splits.is_file():
        return given
    if given.path.is_dir():
        return None
    try:
        return planned_folder(workspace, source)
    except NoPlanError as error:
        raise NoPlanError(
            f"{source}: neither a folder nor the name of a data set in workspace {workspace} "
            f"(planned there: {', '.join(planned_names(workspace)) or 'none'})",
            remedy="Give the folder that holds dataset.json; it need not be planned.",
        ) from error
