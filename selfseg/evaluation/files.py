"""The files of an evaluation: pairs of label maps, fields of view, probabilities."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from selfseg.errors import GeometryError, ImageError, SelfSegError
from selfseg.io.geometry import to_canonical
from selfseg.io.images import (
    IMAGE_ENDINGS,
    Image,
    case_name,
    grid_differences,
    read_label_map,
)

log = logging.getLogger(__name__)

NAMES_SHOWN = 5
PROBABILITIES = "_probabilities.npz"  # after the name of a case, as `selfseg predict` writes them


def matched(
    predictions: Path, references: Path, *, only_predicted: bool
) -> dict[str, tuple[Path, Path]]:
    """Return prediction and reference of every case that has a reference."""
    made, expected = label_maps(predictions), label_maps(references)
    if not expected:
        raise SelfSegError(
            f"{references}: holds no label maps ({', '.join(IMAGE_ENDINGS)})",
            remedy="Give the folder of the references with -r.",
        )
    missing = sorted(set(expected) - set(made))
    if missing and (not only_predicted or len(missing) == len(expected)):
        raise SelfSegError(
            f"{predictions}: no prediction for {len(missing)} of {len(expected)} references: "
            + _listed(missing),
            remedy="Predict these cases as well, or leave them out with --only-predicted.",
        )
    if missing:
        log.warning("%d of %d references have no prediction", len(missing), len(expected))
    return {case: (made[case], expected[case]) for case in sorted(expected.keys() - missing)}


def label_maps(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder by case name."""
    if not folder.is_dir():
        raise SelfSegError(f"{folder}: no such folder", remedy="Check the path.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not path.name.lower().endswith(IMAGE_ENDINGS):
            continue
        name = case_name(path)
        if name in found:
            raise SelfSegError(
                f"{folder}: two files for case {name}: {found[name].name} and {path.name}",
                remedy="Remove one of them.",
            )
        found[name] = path
    return found


def matched_fields_of_view(folder: Path | None, cases: Iterable[str]) -> dict[str, Path]:
    """Return the mask of each case in a folder of fields of view; empty without a folder.

    Raises:
        SelfSegError: Cases without a mask; they are named.
    """
    if folder is None:
        return {}
    found, wanted = label_maps(folder), sorted(cases)
    missing = [case for case in wanted if case not in found]
    if missing:
        raise SelfSegError(
            f"{folder}: no field of view for {len(missing)} of {len(wanted)} cases: "
            + _listed(missing),
            remedy="Name masks as the references, up to the ending.",
        )
    return {case: found[case] for case in wanted}


def read_field_of_view(path: Path, reference: Image) -> np.ndarray:
    """Return where a mask is not 0: boolean (z, y, x), on the grid of the reference.

    Raises:
        ImageError: Unreadable, or empty.
        GeometryError: Another grid.
    """
    mask = read_label_map(path)
    differences = grid_differences(mask.geometry, reference.geometry)
    if differences:
        raise GeometryError(f"{path}: not on the grid of the reference: {'; '.join(differences)}")
    inside: np.ndarray = mask.array[0] != 0
    if not inside.any():
        raise ImageError(
            f"{path}: the field of view is empty", remedy="Give masks that are not 0 inside."
        )
    return inside


def read_probabilities(
    label_map: Path, prediction: Image, names: Sequence[str]
) -> tuple[np.ndarray, ...] | None:
    """Return the probabilities (z, y, x) of labels or regions that lie beside their label map.

    Args:
        label_map: File of the prediction.
        prediction: What it holds.
        names: Labels or regions.

    Returns:
        In the order of the names; None if there is no such file.

    Raises:
        ImageError: Unreadable, of another shape, or without one of the names.
    """
    path = label_map.parent / (case_name(label_map) + PROBABILITIES)
    if not path.is_file():
        return None
    try:
        with np.load(path) as content:
            values, labels = content["probabilities"], [str(name) for name in content["labels"]]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(
            f"{path}: not readable as probabilities ({error})",
            remedy="Predict again with --probabilities, or remove the file.",
        ) from error
    shape = (len(labels), *prediction.native.shape)
    if values.shape != shape:
        raise ImageError(
            f"{path}: probabilities of shape {values.shape}, not {shape} as the label map",
            remedy="Predict again with --probabilities, or remove the file.",
        )
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise ImageError(
            f"{path}: holds {_listed(labels)}, but not {_listed(unknown)}",
            remedy="Declare labels as the model did, in a dataset.json beside the references.",
        )
    canonical = to_canonical(values, prediction.orientation)
    return tuple(canonical[labels.index(name)] for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
