"""Findings about one case that was read, and about cases that are copies of each other.

A finding is one line: file, what was found, what to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfseg.errors import DatasetError
from selfseg.io.geometry import grid_differences
from selfseg.io.images import Image, image_ending, label_indices
from selfseg.io.pictures import PICTURE_ENDINGS
from selfseg.records.dataset import Case, Dataset
from selfseg.words import counted


def check_case(case: Case, image: Image, reference: Image | None, dataset: Dataset) -> list[str]:
    """Return all complaints about one case.

    Args:
        case: The case, for the names of its files.
        image: From `read_image`.
        reference: From `read_label_map`, or None.
        dataset: Declares channels and labels.
    """
    complaints = _channel_complaints(case, image, dataset) + _value_complaints(case, image)
    if reference is not None and case.reference is not None:
        complaints += _grid_complaints(case, image, reference)
        complaints += _label_complaints(case.reference.path, reference, dataset)
    return complaints


def find_duplicates(cases: Sequence[Case]) -> list[str]:
    """Return a complaint for each set of cases with the same images, by the files' digests.

    Copies on both sides of a fold make its validation meaningless.
    """
    same: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for case in cases:
        digests = tuple(file.digest for file in case.images)
        if digests and all(digests):
            same[digests].append(case.id)
    return [
        f"cases {', '.join(ids)}: identical images; keep one of them"
        for ids in same.values()
        if len(ids) > 1
    ]


def _channel_complaints(case: Case, image: Image, dataset: Dataset) -> list[str]:
    found, declared = image.array.shape[0], len(dataset.channels)
    if found == declared:
        return []
    files = ", ".join(file.path for file in case.images)
    return [
        f"{files}: {counted(found, 'channel')} where dataset.json declares {declared}"
        f" ({', '.join(dataset.channels)}); correct 'channel_names' or convert the image"
    ]


def _value_complaints(case: Case, image: Image) -> list[str]:
    complaints = []
    for channel, values in enumerate(image.array):
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            one_each = len(case.images) == image.array.shape[0]
            file = case.images[channel if one_each else 0].path
            complaints.append(
                f"{file}: {bad} of {values.size} values of channel {channel} are NaN or infinite; "
                "replace them, for example by the background's value"
            )
    return complaints


def _grid_complaints(case: Case, image: Image, reference: Image) -> list[str]:
    """Return how the reference's grid differs; pictures have no world, only a size."""
    if case.reference is None:
        return []
    file = case.reference.path
    paths = (Path(case.images[0].path), Path(file))
    pictures = [image_ending(path) in PICTURE_ENDINGS for path in paths]
    differences = grid_differences(image.geometry, reference.geometry)
    if not any(pictures) and differences:
        # With a wrong header resampling would empty the label map, so the user has to look.
        remedy = "resample the label map to the image's grid"
        if image.native.shape == reference.native.shape:
            remedy = (
                "if its voxels lie on those of the image nevertheless, copy the image's header "
                f"(datasets.md, 'Convert your own data'); else {remedy}"
            )
        return [
            f"{file}: not on the grid of {case.images[0].path}: {'; '.join(differences)} "
            f"(image first); {remedy}"
        ]
    if image.geometry.shape != reference.geometry.shape:
        return [
            f"{file}: not of the size of {case.images[0].path}: {differences[0]} (image first); "
            "make the label map in the image's size"
        ]
    if image.orientation != reference.orientation:
        return [
            f"{file}: has no orientation, but {case.images[0].path} is stored turned or flipped; "
            "store both in one format, NIfTI, NRRD or MHA"
        ]
    return []


def _label_complaints(file: str, reference: Image, dataset: Dataset) -> list[str]:
    try:
        indices = label_indices(reference.array, dataset.labels, dataset.ignore)
    except DatasetError as error:
        return [f"{file}: {error.message}; declare them or correct the file"]
    if dataset.ignore is not None and (indices == dataset.targets.ignore_index).all():
        return [
            f"{file}: no voxel is annotated (all have the value {dataset.ignore} of 'ignore'); "
            "annotate a part of it or leave the case out"
        ]
    return []
