"""Score label maps made from stored out-of-fold probabilities against references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.arrays import Indices
from selfseg.errors import ImageError
from selfseg.evaluation.surface import normalized_surface_dice, surface_distances
from selfseg.inference.decode import decode
from selfseg.inference.probability_sum import STORED_CERTAIN
from selfseg.io.images import label_indices, read_label_map
from selfseg.io.store import StoredArray, open_array
from selfseg.records.dataset import Targets
from selfseg.records.selection import SelectionMetric
from selfseg.records.serial import Triple

Scores = tuple[float | None, ...]  # in the order of `targets.names`
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Measure:
    """What is compared: the Dice coefficient, or the surface Dice at a tolerance in mm."""

    metric: SelectionMetric = "dice"
    tolerance_mm: float = 1.0


@dataclass(frozen=True)
class HeldOut:
    """One validation case.

    Attributes:
        id, group, fold: Which case; the fold that held it out.
        reference: File of its reference.
        images: Files of its channels.
        probabilities: For each configuration its stored probabilities, and a digest of
            what they depend on.
    """

    id: str
    group: str
    fold: str
    reference: Path
    probabilities: dict[str, tuple[Path, str]]
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Label indices (Z, Y, X) of a reference in canonical axes, and its voxel size."""

    indices: npt.NDArray[np.int16]
    spacing_mm: Triple


def read_reference(path: Path, targets: Targets) -> Reference:
    """Read a reference; what is not annotated gets `targets.ignore_index`."""
    image = read_label_map(path)
    indices = label_indices(image.array[0], targets.labels, targets.ignore)
    return Reference(indices, image.geometry.spacing_mm)


def predicted(case: HeldOut, members: Sequence[str], targets: Targets) -> Indices:
    """Return the label indices (Z, Y, X) that the mean of some members' probabilities gives."""
    return decode(stored(case, members), targets, full=float(STORED_CERTAIN * len(members)))


def stored(case: HeldOut, members: Sequence[str]) -> list[StoredArray]:
    """Return the members' stored probabilities (c, Z, Y, X), 255 where they are 1."""
    remedy = "Delete the file and run 'selfseg select' again: it predicts what is missing."
    return [open_array(case.probabilities[name][0], remedy=remedy) for name in members]


def score_names(
    prediction: Indices,
    reference: Reference,
    targets: Targets,
    measure: Measure,
    *,
    only: int | None = None,
) -> Scores:
    """Score every label or region; None where neither map has it. Unannotated voxels are left out.

    Args:
        prediction: Label indices (Z, Y, X).
        reference: Of the same grid.
        targets: What is scored.
        measure: How.
        only: Place of the one label that is scored; the others are None. Default: all.

    Raises:
        ImageError: The grids differ.
    """
    truth: npt.NDArray[np.integer] = reference.indices
    if prediction.shape != truth.shape:
        raise ImageError(
            f"a stored prediction has the size {prediction.shape}, its reference {truth.shape}",
            remedy="Run 'selfseg plan' again, so that changed files are noticed.",
        )
    known = None if targets.ignore_index is None else truth != targets.ignore_index
    count = len(targets.labels)
    found = [ndimage.find_objects(indices, max_label=count) for indices in (prediction, truth)]
    scores: list[float | None] = []
    for index, members in enumerate(targets.members):
        boxes = [boxes[m - 1] for boxes in found for m in members if boxes[m - 1] is not None]
        if not boxes or only not in (None, index):
            scores.append(None)
            continue
        box = _joined(boxes)
        a, b = (np.isin(indices[box], members) for indices in (prediction, truth))
        seen = None if known is None else known[box]
        scores.append(score_masks(a, b, reference.spacing_mm, measure, seen))
    return tuple(scores)


def score_masks(
    a: Mask, b: Mask, spacing_mm: Triple, measure: Measure, known: Mask | None = None
) -> float | None:
    """Return the score of two masks (Z, Y, X) where `b` is known; None if both are empty there."""
    if measure.metric == "nsd":
        distances = surface_distances(a, b, spacing_mm, known)
        return normalized_surface_dice(distances, measure.tolerance_mm)
    if known is not None:
        a, b = a & known, b & known
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else None


def _joined(boxes: Sequence[Box]) -> Box:
    """Return the box around some boxes, with a margin of one voxel where there is one."""
    z, y, x = (
        slice(max(min(s.start for s in axis) - 1, 0), max(s.stop for s in axis) + 1)
        for axis in zip(*boxes, strict=True)
    )
    return (z, y, x)
