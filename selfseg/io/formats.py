"""Datasets read in place: nnU-Net v2 raw and Medical Segmentation Decathlon.

No voxel is read here; every complaint about names, files and descriptions is collected first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from selfseg.errors import DatasetError
from selfseg.io.case_files import (
    IMAGES,
    LABELS,
    FoundCase,
    case_complaints,
    case_record,
    group_images,
    image_files,
    other_files,
)
from selfseg.io.description import DESCRIPTION, Description, read_description
from selfseg.io.groups import add_groups
from selfseg.io.images import case_name
from selfseg.records.dataset import Dataset
from selfseg.words import counted


def read_dataset(root: Path, *, only: Collection[str] | None = None) -> Dataset:
    """Read the description and the file list of a dataset.

    Args:
        root: Folder with `dataset.json`.
        only: Case ids to keep; None keeps all.

    Raises:
        DatasetError: With all complaints about description, names and files.
    """
    root = root.resolve()
    description = read_description(root)
    complaints = list(description.complaints)
    layout: Literal["nnunet", "msd"] = "nnunet"
    if "training" in description.content:
        layout, found = "msd", _decathlon_cases(root, description, complaints)
    elif "dataset" in description.content:
        found = _listed_cases(root, description.content["dataset"], complaints)
    else:
        found = _raw_cases(root, description, complaints)
    found = _selected(found, only, complaints)
    complaints += case_complaints(found, description.channels, labeled=True)
    cases = add_groups(
        [case_record(item, root) for item in found], root, description.content, complaints
    )
    if not found and not complaints:
        complaints.append(f"{root}: no training cases; put images into {IMAGES}")
    if complaints:
        count = counted(len(complaints), "complaint")
        raise DatasetError(
            f"{root}: the dataset cannot be used ({count})",
            complaints=complaints,
            remedy="Correct these and run the command again; datasets.md describes both layouts.",
        )
    return Dataset(
        name=description.name,
        root=str(root),
        layout=layout,
        channels=description.channels,
        labels=description.targets.labels,
        regions=description.targets.regions,
        ignore=description.targets.ignore,
        cases=tuple(sorted(cases, key=lambda case: case.id)),
    )


def _raw_cases(root: Path, description: Description, complaints: list[str]) -> list[FoundCase]:
    """Return the cases of the nnU-Net v2 raw layout; a case needs an image and a label."""
    images = image_files(root / IMAGES, description.image_endings)
    labels = image_files(root / LABELS, description.label_endings)
    for folder, files, endings in (
        (root / IMAGES, images, description.image_endings),
        (root / LABELS, labels, description.label_endings),
    ):
        if not files:
            shown = endings[0] if len(endings) == 1 else "known"
            complaints.append(
                f"{folder.name}: no files with a {shown} ending{other_files(folder)}; "
                "put the files there or correct 'file_ending' in dataset.json"
            )
    if not images or not labels:
        return []
    references: dict[str, Path] = {}
    for path in labels:
        if case_name(path) in references:
            complaints.append(
                f"{LABELS}/{path.name}: second label map of case {case_name(path)} besides "
                f"{references[case_name(path)].name}; remove one"
            )
        references.setdefault(case_name(path), path)
    cases = {
        item.id: item
        for item in group_images(images, max(len(description.channels), 1), complaints)
    }
    return [
        FoundCase(name, cases[name].images if name in cases else (), references.get(name))
        for name in sorted(cases.keys() | references.keys())
    ]


def _decathlon_cases(
    root: Path, description: Description, complaints: list[str]
) -> list[FoundCase]:
    """Return the cases that `training` lists."""
    entries = description.content["training"]
    found: dict[str, FoundCase] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        images = _strings(entry.get("image")) if isinstance(entry, dict) else ()
        labels = _strings(entry.get("label")) if isinstance(entry, dict) else ()
        if not images or len(labels) != 1:
            complaints.append(
                f"{DESCRIPTION}: training[{number}] must be "
                '{"image": "./imagesTr/CASE.nii.gz", "label": "./labelsTr/CASE.nii.gz"}'
            )
            continue
        name = case_name(Path(images[0]))
        if name in found:
            complaints.append(f"{DESCRIPTION}: training lists case {name} twice; remove one entry")
        found[name] = FoundCase(name, tuple(root / path for path in images), root / labels[0])
    return list(found.values())


def _listed_cases(root: Path, listed: object, complaints: list[str]) -> list[FoundCase]:
    """Return the cases of nnU-Net's `dataset` key; paths are relative to root or absolute."""
    found = []
    for name, entry in listed.items() if isinstance(listed, dict) else [("dataset", None)]:
        images = _strings(entry.get("images")) if isinstance(entry, dict) else ()
        labels = _strings(entry.get("label")) if isinstance(entry, dict) else ()
        if not images or len(labels) != 1 or not name or Path(name).name != name:
            complaints.append(
                f"{DESCRIPTION}: 'dataset' entry {name!r} must be CASE: "
                '{"images": ["PATH", …], "label": "PATH"}'
            )
            continue
        paths = [root / os.path.expandvars(path) for path in (*images, *labels)]
        found.append(FoundCase(name, tuple(paths[:-1]), paths[-1]))
    return found


def _selected(
    found: Sequence[FoundCase], only: Collection[str] | None, complaints: list[str]
) -> list[FoundCase]:
    if only is None:
        return list(found)
    known = {item.id for item in found}
    complaints += [
        f"case {name}: asked for, but not in the dataset; correct the list of cases"
        for name in sorted(set(only) - known)
    ]
    return [item for item in found if item.id in only]


def _strings(value: object) -> tuple[str, ...]:
    """Return a string or a list of strings as a tuple; anything else is empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        return ()
    return tuple(values)
