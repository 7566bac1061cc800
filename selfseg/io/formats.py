"""Datasets read in place: nnU-Net v2 raw and Medical Segmentation Decathlon; cases to predict.

No voxel is read here; every complaint about names, files and descriptions is collected first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfseg.errors import DatasetError
from selfseg.io.description import DESCRIPTION, Description, read_description
from selfseg.io.groups import add_groups
from selfseg.io.images import IMAGE_ENDINGS, case_name, image_ending
from selfseg.records.dataset import Case, Dataset, File

IMAGES = "imagesTr"
LABELS = "labelsTr"

_NUMBERED = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class _Found:
    """Files of a case before they are checked."""

    id: str
    images: tuple[Path, ...]
    reference: Path | None


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
    complaints += _case_complaints(found, description.channels, labeled=True)
    cases = add_groups([_case(item, root) for item in found], root, description.content, complaints)
    if not found and not complaints:
        complaints.append(f"{root}: no training cases; put images into {IMAGES}")
    if complaints:
        count = f"{len(complaints)} complaint{'s' if len(complaints) > 1 else ''}"
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


def list_cases(source: Path, num_channels: int) -> tuple[Case, ...]:
    """Return the cases to predict in a folder, or the case that one image belongs to.

    `CASE_0000.ext`, `CASE_0001.ext`, … are the channels of CASE; a file without a channel number
    below `num_channels` is a case of its own that holds all channels. Paths are absolute.

    Raises:
        DatasetError: No images, or missing channels; all complaints at once.
    """
    source = source.resolve()
    complaints: list[str] = []
    if source.is_dir():
        found = _group_images(_image_files(source, IMAGE_ENDINGS), num_channels, complaints)
        if not found:
            raise DatasetError(
                f"{source}: no images in this folder{_other_files(source)}",
                remedy=f"Supported endings: {' '.join(IMAGE_ENDINGS)}.",
            )
    elif source.is_file() and image_ending(source):
        found = _around(source, num_channels, complaints)
    else:
        finding = "format not supported" if source.exists() else "no such file or folder"
        raise DatasetError(
            f"{source}: {finding}",
            remedy=f"Give a folder or an image with one of {' '.join(IMAGE_ENDINGS)}.",
        )
    complaints += _surplus_complaints(found, num_channels)
    names = tuple(f"channel {number}" for number in range(num_channels))
    complaints += _case_complaints(found, names, labeled=False)
    if complaints:
        raise DatasetError(
            f"{source}: images to predict are incomplete",
            complaints=complaints,
            remedy="Add what is missing, or move these files elsewhere.",
        )
    return tuple(_case(item, None) for item in sorted(found, key=lambda item: item.id))


def _raw_cases(root: Path, description: Description, complaints: list[str]) -> list[_Found]:
    """Return the cases of the nnU-Net v2 raw layout; a case needs an image and a label."""
    images = _image_files(root / IMAGES, description.image_endings)
    labels = _image_files(root / LABELS, description.label_endings)
    for folder, files, endings in (
        (root / IMAGES, images, description.image_endings),
        (root / LABELS, labels, description.label_endings),
    ):
        if not files:
            shown = endings[0] if len(endings) == 1 else "known"
            complaints.append(
                f"{folder.name}: no files with a {shown} ending{_other_files(folder)}; "
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
        for item in _group_images(images, max(len(description.channels), 1), complaints)
    }
    return [
        _Found(name, cases[name].images if name in cases else (), references.get(name))
        for name in sorted(cases.keys() | references.keys())
    ]


def _decathlon_cases(root: Path, description: Description, complaints: list[str]) -> list[_Found]:
    """Return the cases that `training` lists."""
    entries = description.content["training"]
    found: dict[str, _Found] = {}
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
        found[name] = _Found(name, tuple(root / path for path in images), root / labels[0])
    return list(found.values())


def _listed_cases(root: Path, listed: object, complaints: list[str]) -> list[_Found]:
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
        found.append(_Found(name, tuple(paths[:-1]), paths[-1]))
    return found


def _group_images(files: Iterable[Path], num_channels: int, complaints: list[str]) -> list[_Found]:
    """Gather files by case; a number is a channel's if there is such a channel."""
    cases: dict[str, dict[int, Path]] = {}
    for path in files:
        name, channel = _numbered(path, num_channels) or (case_name(path), 0)
        others = cases.setdefault(name, {})
        if channel in others:
            complaints.append(
                f"{path.parent.name}/{path.name}: second file for channel {channel} of case "
                f"{name} besides {others[channel].name}; remove one"
            )
        others.setdefault(channel, path)
    return [
        _Found(name, tuple(channels[number] for number in sorted(channels)), None)
        for name, channels in cases.items()
    ]


def _around(source: Path, num_channels: int, complaints: list[str]) -> list[_Found]:
    """Return the case of one image: with the other channels beside it if it is numbered."""
    numbered = _numbered(source, num_channels)
    if numbered is None:
        return [_Found(case_name(source), (source,), None)]
    siblings = [
        path
        for path in _image_files(source.parent, (image_ending(source),))
        if (match := _NUMBERED.fullmatch(case_name(path))) and match[1] == numbered[0]
    ]
    return _group_images(siblings, num_channels, complaints)


def _surplus_complaints(found: Sequence[_Found], num_channels: int) -> list[str]:
    """Return images that are numbered like a further channel of another case."""
    known = {item.id for item in found}
    surplus: dict[str, list[str]] = {}
    for item in found:
        match = _NUMBERED.fullmatch(item.id)
        if match is not None and match[1] in known and int(match[2]) >= num_channels:
            surplus.setdefault(match[1], []).append(item.images[0].name)
    return [
        f"case {case}: the model has {num_channels} channel{'s' if num_channels > 1 else ''}, but "
        f"there is also {', '.join(sorted(files))}; move these files elsewhere"
        for case, files in surplus.items()
    ]


def _numbered(path: Path, num_channels: int) -> tuple[str, int] | None:
    """Return case and channel of `CASE_0000.ext`, or None if the number is no channel's."""
    match = _NUMBERED.fullmatch(case_name(path))
    if match is None or int(match[2]) >= num_channels:
        return None
    return match[1], int(match[2])


def _selected(
    found: Sequence[_Found], only: Collection[str] | None, complaints: list[str]
) -> list[_Found]:
    if only is None:
        return list(found)
    known = {item.id for item in found}
    complaints += [
        f"case {name}: asked for, but not in the dataset; correct the list of cases"
        for name in sorted(set(only) - known)
    ]
    return [item for item in found if item.id in only]


def _case_complaints(
    found: Sequence[_Found], channels: Sequence[str], *, labeled: bool
) -> list[str]:
    """Return what is missing: channels, images, label maps, files."""
    complaints = []
    # One file may hold all channels, but then every case must be stored like that.
    allowed = {len(channels)} | ({1} if all(len(item.images) <= 1 for item in found) else set())
    for item in found:
        if not item.images:
            label = item.reference.name if item.reference else ""
            complaints.append(
                f"case {item.id}: label map {label} without images; add {item.id}_0000… to "
                f"{IMAGES} or remove the label map"
            )
        elif channels and len(item.images) not in allowed:
            files = ", ".join(path.name for path in item.images)
            complaints.append(
                f"case {item.id}: {len(item.images)} of {len(channels)} channels "
                f"({', '.join(channels)}): {files}; add the missing files"
            )
        if labeled and item.reference is None:
            complaints.append(
                f"case {item.id}: image {item.images[0].name} without label map; add {item.id} to "
                f"{LABELS} or move the image to imagesTs"
            )
        complaints += _file_complaints(item)
    return complaints


def _file_complaints(item: _Found) -> list[str]:
    complaints = []
    for path in (*item.images, *([item.reference] if item.reference else [])):
        if not path.is_file():
            complaints.append(f"case {item.id}: {path} does not exist; add it")
        elif not image_ending(path):
            complaints.append(
                f"case {item.id}: {path} has no supported ending ({' '.join(IMAGE_ENDINGS)}); "
                "convert it"
            )
        elif path.stat().st_size == 0:
            complaints.append(f"case {item.id}: {path} is empty; copy it again")
    return complaints


def _case(item: _Found, root: Path | None) -> Case:
    return Case(
        id=item.id,
        images=tuple(_file(path, root) for path in item.images),
        reference=_file(item.reference, root) if item.reference else None,
    )


def _file(path: Path, root: Path | None) -> File:
    """Return the record of a file, relative to root where it lies inside; digest is empty."""
    inside = root is not None and path.is_relative_to(root)
    name = path.relative_to(root).as_posix() if root is not None and inside else str(path)
    if not path.is_file():
        return File(path=name)
    facts = path.stat()
    return File(path=name, size=facts.st_size, modified_ns=facts.st_mtime_ns)


def _image_files(folder: Path, endings: Collection[str]) -> list[Path]:
    """Return the visible files with one of the endings, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if image_ending(path) in endings and not path.name.startswith(".") and path.is_file()
    )


def _other_files(folder: Path) -> str:
    """Return ` (there are: .png, .csv)` as a hint, or that the folder is missing."""
    if not folder.is_dir():
        return " (the folder does not exist)"
    endings = {
        image_ending(path) or path.suffix or path.name
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
    return f" (there are: {', '.join(sorted(endings)[:6])})" if endings else " (it is empty)"


def _strings(value: object) -> tuple[str, ...]:
    """Return a string or a list of strings as a tuple; anything else is empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        return ()
    return tuple(values)
