"""Score predictions against references, case by case, label by label or region by region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from selfseg.errors import DatasetError, GeometryError, SelfSegError
from selfseg.evaluation.files import (
    matched,
    matched_fields_of_view,
    read_field_of_view,
    read_probabilities,
)
from selfseg.evaluation.further import NOTHING_FURTHER, Further, Maps, add_families, mask_of
from selfseg.evaluation.labels import declared_targets, numbered_targets
from selfseg.evaluation.overlap import overlaps
from selfseg.evaluation.surface import (
    average_distance_mm,
    hausdorff_mm,
    normalized_surface_dice,
    surface_distances,
)
from selfseg.evaluation.table import metrics_table
from selfseg.execution.processes import map_parallel
from selfseg.io.images import Image, grid_differences, label_indices, read_label_map
from selfseg.records.dataset import Label, Targets
from selfseg.records.metrics import CaseScores, LabelScores, MetricsTable
from selfseg.records.serial import Triple
from selfseg.words import counted


@dataclass(frozen=True)
class Tolerances:
    """How far surfaces may lie apart in the normalized surface Dice: in general, and by label."""

    general_mm: float = 1.0
    by_label_mm: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """Return the tolerance of one label in mm."""
        return self.by_label_mm.get(name, self.general_mm)


@dataclass(frozen=True)
class Pair:
    """The two files of one case, and how to score them.

    Attributes:
        further: Metrics beside the usual ones; its field of view is the file of this case.
    """

    id: str
    prediction: Path
    reference: Path
    targets: Targets
    tolerances: Tolerances = Tolerances()
    further: Further = NOTHING_FURTHER


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    targets: Targets | None = None,
    tolerances: Tolerances = Tolerances(),
    only_predicted: bool = False,
    further: Further = NOTHING_FURTHER,
    workers: int = 1,
) -> MetricsTable:
    """Score a folder of predictions against a folder of references.

    Args:
        predictions: Folder of label maps; what has no reference is ignored.
        references: Folder of label maps; each needs a prediction of the same name up to the ending.
        targets: What is scored. Default: the labels or regions of a dataset.json in the
            references' folder or its parent, else every value that occurs.
        tolerances: Of the normalized surface Dice.
        only_predicted: Leave out references without a prediction.
        further: Metrics beside the usual ones, and the folder of fields of view.
        workers: Parallel processes.

    Raises:
        SelfSegError: Missing predictions, unknown values, unreadable files; all are listed.
        GeometryError: Predictions that do not lie on the grid of their references.
    """
    files = matched(predictions, references, only_predicted=only_predicted)
    known = targets if targets is not None else declared_targets(references)
    if known is None:
        paths = [path for pair in files.values() for path in pair]
        known = numbered_targets(
            value
            for values in map_parallel(_values, paths, workers=workers, label="reading labels")
            for value in values
        )
    _check_tolerances(tolerances, known)
    fields = matched_fields_of_view(further.field_of_view, files)
    pairs = [
        Pair(case, *paths, known, tolerances, replace(further, field_of_view=fields.get(case)))
        for case, paths in files.items()
    ]
    results = map_parallel(score_files, pairs, workers=workers, label="evaluating")
    scored = [result for result in results if isinstance(result, CaseScores)]
    _raise_all([result for result in results if isinstance(result, SelfSegError)], predictions)
    return metrics_table(scored, known.names)


def score_files(pair: Pair) -> CaseScores | SelfSegError:
    """Score one pair of files; a mistake of the user comes back as a value."""
    try:
        prediction, reference = read_label_map(pair.prediction), read_label_map(pair.reference)
        differences = grid_differences(prediction.geometry, reference.geometry)
        if differences:
            return GeometryError(
                f"{pair.prediction}: not on the grid of {pair.reference}: {'; '.join(differences)}"
            )
        scores = _score_images(pair, prediction, reference)
    except SelfSegError as error:
        return error
    return CaseScores(case=pair.id, labels=scores)


def _score_images(pair: Pair, prediction: Image, reference: Image) -> dict[str, LabelScores]:
    """Score two images of one grid."""
    targets, field_of_view = pair.targets, pair.further.field_of_view
    maps = Maps(
        _indices(prediction, pair.prediction, targets.labels),
        _indices(reference, pair.reference, targets.labels, targets.ignore),
        targets,
        reference.geometry.spacing_mm,
        None if field_of_view is None else read_field_of_view(field_of_view, reference),
    )
    scores = score_maps(maps, pair.tolerances)
    if not pair.further.wanted:
        return scores
    probabilities = None
    if field_of_view is not None:
        probabilities = read_probabilities(pair.prediction, prediction, targets.names)
    return add_families(scores, maps, pair.further.names, probabilities)


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    targets: Targets,
    spacing_mm: Triple,
    tolerances: Tolerances = Tolerances(),
) -> dict[str, LabelScores]:
    """Score two label maps of one grid, where the reference is annotated.

    For surfaces, both maps are continued from what is annotated into what is not, so that
    annotation that ends makes no surface; elements that touch no annotated voxel do not count.

    Args:
        prediction: Label indices (z, y, x), 0 to the number of labels.
        reference: The same of the annotation judged against; what is not annotated has the index
            `targets.ignore_index`.
        targets: What is scored: labels, or regions.
        spacing_mm: Voxel size.
        tolerances: Of the normalized surface Dice.

    Returns:
        Scores by name; what is undefined is None (see `LabelScores`).
    """
    return score_maps(Maps(prediction, reference, targets, spacing_mm), tolerances)


def score_maps(maps: Maps, tolerances: Tolerances) -> dict[str, LabelScores]:
    """Score two label maps as `score_case` does, inside a field of view if there is one."""
    prediction, reference, members = maps.prediction, maps.reference, maps.targets.members
    known = maps.known
    if known is None:
        counts = overlaps(prediction, reference, members)
    else:
        counts = overlaps(prediction[known], reference[known], members)
    boxes = _boxes(prediction, reference, members)
    scores = {}
    for name, group, box, overlap in zip(maps.targets.names, members, boxes, counts, strict=True):
        a, b = (mask_of(indices[box], group) for indices in (prediction, reference))
        distances = surface_distances(a, b, maps.spacing_mm, None if known is None else known[box])
        scores[name] = LabelScores(
            dice=overlap.dice,
            iou=overlap.iou,
            hd95_mm=hausdorff_mm(distances),
            assd_mm=average_distance_mm(distances),
            nsd=normalized_surface_dice(distances, tolerances.of(name)),
            volume_difference_ml=overlap.volume_difference_ml(math.prod(maps.spacing_mm)),
        )
    return scores


def _boxes(
    a: np.ndarray, b: np.ndarray, members: Sequence[Sequence[int]]
) -> list[tuple[slice, slice, slice]]:
    """Return the box of each group of labels in both maps, with a margin of one voxel if it fits.

    The margin keeps a label that is one voxel thick apart from an image that is.
    """
    empty = (slice(0, 0), slice(0, 0), slice(0, 0))
    largest = max((index for group in members for index in group), default=0)
    found = [ndimage.find_objects(indices, max_label=largest) for indices in (a, b)]
    boxes = []
    for group in members:
        both = [places[index - 1] for places in found for index in group]
        present = [box for box in both if box is not None]
        if not present:
            boxes.append(empty)
            continue
        z, y, x = (
            slice(max(min(s.start for s in axis) - 1, 0), max(s.stop for s in axis) + 1)
            for axis in zip(*present, strict=True)
        )
        boxes.append((z, y, x))
    return boxes


def _values(path: Path) -> tuple[int, ...]:
    """Return the values that occur in a label map."""
    return tuple(int(value) for value in np.unique(read_label_map(path).array))


def _indices(
    image: Image, path: Path, labels: Sequence[Label], ignore: int | None = None
) -> np.ndarray:
    """Return label indices (z, y, x); a complaint about values names the file."""
    try:
        return label_indices(image.array[0], labels, ignore)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error.message}", remedy=error.remedy) from error


def _check_tolerances(tolerances: Tolerances, targets: Targets) -> None:
    """Refuse tolerances of labels or regions that do not exist."""
    names = targets.names
    unknown = sorted(set(tolerances.by_label_mm) - set(names))
    if unknown:
        raise SelfSegError(
            f"tolerance for unknown labels: {', '.join(unknown)} (labels: {', '.join(names)})",
            remedy="Name labels as in the dataset's description.",
        )


def _raise_all(errors: Sequence[SelfSegError], folder: Path) -> None:
    """Raise all complaints as one; a GeometryError if all are."""
    if not errors:
        return
    all_geometry = all(isinstance(error, GeometryError) for error in errors)
    kind = GeometryError if all_geometry else SelfSegError
    lines = "".join(f"\n  • {error.message}" for error in errors)
    raise kind(
        f"{folder}: {counted(len(errors), 'case')} cannot be evaluated{lines}",
        remedy="Predictions need the grid and the label values of their references."
        if all_geometry
        else next((error.remedy for error in errors if error.remedy), ""),
    )
