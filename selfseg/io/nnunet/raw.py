"""A data set in nnU-Net's raw layout: one ending, one image a channel, consecutive label values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfseg.io.images import (
    image_ending,
    label_indices,
    read_image,
    read_label_map,
    write_label_map,
    write_volume,
)
from selfseg.io.pictures import TIFF_ENDINGS, spacing_file
from selfseg.progress import ProgressBar
from selfseg.records.dataset import Case, Dataset, Label, Splits, Targets

# What nnU-Net reads from one file: no JPEG, and no header with its voxels in another file.
READ = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".tiff")
CONVERTED = ".nii.gz"


def write_raw(dataset: Dataset, folder: Path, splits: Splits | None = None) -> None:
    """Write all cases of a data set, its description, and its folds if there are.

    Images are copied; those that are stored in another format than the first are converted, and
    so are all where nnU-Net does not read the first one's.
    Label maps hold 1, 2, … in the order of the labels, and one value more where not annotated.

    Args:
        dataset: What was read; the files must be there.
        folder: An empty or new folder.
        splits: Folds to train with.

    Raises:
        ImageError: An image cannot be read, or not be converted.
        DatasetError: A label map has values of no label.
    """
    root = Path(dataset.root)
    ending = image_ending(Path(dataset.cases[0].images[0].path))
    ending = ending if ending in READ else CONVERTED
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    with ProgressBar("exporting", len(dataset.cases)) as bar:
        for case in dataset.cases:
            _write_images(case, root, folder / "imagesTr", ending)
            _write_reference(case, root, folder / "labelsTr", ending, dataset.targets)
            bar.advance(note=case.id)
    _write_json(folder / "dataset.json", describe(dataset, ending))
    if splits is not None:
        folds = [{"train": list(f.train), "val": list(f.validation)} for f in splits.folds]
        _write_json(folder / "splits_final.json", folds)


def describe(dataset: Dataset, ending: str) -> Mapping[str, Any]:
    """Return the content of nnU-Net's dataset.json."""
    targets = dataset.targets
    labels: dict[str, Any] = {"background": 0}
    order = {}
    if targets.regions:
        for region in targets.regions:
            labels[region.name] = [targets.index(value) for value in region.values]
        order["regions_class_order"] = [targets.index(r.value) for r in targets.regions]
    else:
        labels.update({label.name: targets.index(label.value) for label in targets.labels})
    if targets.ignore_index is not None:
        labels["ignore"] = targets.ignore_index
    return {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        **order,
        "numTraining": len(dataset.cases),
        "file_ending": ending,
    }


def _write_images(case: Case, root: Path, folder: Path, ending: str) -> None:
    """Copy a case's files; nnU-Net takes one file with all channels as well."""
    paths = [root / file.path for file in case.images]
    targets = [folder / f"{case.id}_{index:04d}{ending}" for index in range(len(paths))]
    if all(image_ending(path) == ending for path in paths):
        for path, target in zip(paths, targets, strict=True):
            shutil.copyfile(path, target)
            if ending in TIFF_ENDINGS and spacing_file(path).is_file():
                shutil.copyfile(spacing_file(path), spacing_file(target))
        return
    image = read_image(paths)
    for index, channel in enumerate(image.array):
        write_volume(
            channel,
            native=image.native,
            orientation=image.orientation,
            path=folder / f"{case.id}_{index:04d}{ending}",
        )


def _write_reference(case: Case, root: Path, folder: Path, ending: str, targets: Targets) -> None:
    if case.reference is None:
        return
    found = read_label_map(root / case.reference.path)
    indices = label_indices(found.array[0], targets.labels, targets.ignore)
    write_label_map(
        indices,
        tuple(Label(name=label.name, value=targets.index(label.value)) for label in targets.labels),
        native=found.native,
        orientation=found.orientation,
        path=folder / f"{case.id}{ending}",
        ignore=targets.ignore_index,
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
