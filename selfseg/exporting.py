"""What leaves: a trained model as one file, a data set in nnU-Net's layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.io.formats import read_dataset
from selfseg.io.nnunet.raw import write_raw
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.workspace.lookup import planned_folder


def export_dataset(source: str, output: Path, *, workspace: Path) -> Dataset:
    """Write a data set in nnU-Net's raw layout; the folder appears whole or not at all.

    Args:
        source: Data folder, or the name of a planned data set, whose folds are written as well.
        output: A new or empty folder, such as `nnUNet_raw/Dataset001_NAME`.
        workspace: Root of the workspace.

    Raises:
        SelfSegError: The data set cannot be read, or the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SelfSegError(f"{output}: is not empty", remedy="Choose a new folder with -o.")
    splits = None
    if Path(source).is_dir():
        dataset = read_dataset(Path(source))
    else:
        folder = planned_folder(workspace, source)
        dataset = serial.load(Dataset, folder.dataset)
        splits = serial.load(Splits, folder.splits)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export.") as name:
        made = Path(name) / "dataset"
        write_raw(dataset, made, splits)
        if output.is_dir():
            output.rmdir()
        made.replace(output)
    return dataset
