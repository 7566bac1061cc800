"""Measure every lesion of a folder of label maps: size, place, intensities."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.errors import DatasetError, GeometryError, SelfSegError
from selfseg.evaluation.files import label_maps
from selfseg.evaluation.further import mask_of
from selfseg.evaluation.labels import declared_targets, numbered_targets
from selfseg.execution.processes import map_parallel
from selfseg.io.images import Image, grid_differences, label_indices, read_image, read_label_map
from selfseg.io.matching import images_of
from selfseg.radiomics.shape import longest_axial_mm, longest_distance, mesh_of
from selfseg.records import serial
from selfseg.records.dataset import Targets
from selfseg.records.geometry import Geometry
from selfseg.records.measurement import IntensityStatistics, LesionMeasurement, MeasurementTable
from selfseg.words import counted

CUBIC_MM_PER_ML = 1000.0
MOST_VALUES = 1000  # of a label map whose labels are declared nowhere
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskedCase:
    """The files of one case: its label map, and its images if there are any."""

    id: str
    mask: Path
    images: tuple[Path, ...]
    targets: Targets | None


def measure_folders(masks: Path, images: Path | None, *, workers: int = 1) -> MeasurementTable:
    """Measure the lesions of every label map in a folder.

    Args:
        masks: Folder of label maps. Labels or regions are those of a dataset.json in it or its
            parent, else every value that occurs is a label.
        images: Folder of the images on the grids of the label maps; None: no intensities.
        workers: Parallel processes.

    Raises:
        SelfSegError: No label maps, images that do not fit; all complaints.
    """
    maps = label_maps(masks)
    if not maps:
        raise SelfSegError(f"{masks}: holds no label maps", remedy="Give their folder with -p.")
    found = images_of(images, maps) if images is not None else {}
    targets = declared_targets(masks)
    cases = [MaskedCase(name, path, found.get(name, ()), targets) for name, path in maps.items()]
    results = map_parallel(_measure_files, cases, workers=workers, label="measuring")
    complaints = [result.message for result in results if isinstance(result, SelfSegError)]
    if complaints:
        raise DatasetError(
            f"{masks}: {counted(len(complaints), 'case')} cannot be measured",
            complaints=complaints,
            remedy="Correct these files, or leave them out; -p takes label maps, -i images.",
        )
    rows = [result for result in results if not isinstance(result, SelfSegError)]
    return MeasurementTable(
        lesions=tuple(lesion for lesions in rows for lesion in lesions),
        empty=tuple(case.id for case, lesions in zip(cases, rows, strict=True) if not lesions),
    )


def measure_lesions(
    case: str,
    label: str,
    mask: Mask,
    geometry: Geometry,
    channels: npt.NDArray[np.floating] | None = None,
) -> Iterator[LesionMeasurement]:
    """Measure every component of one label, the largest first.

    Args:
        case: Id of the case.
        label: Name of the label.
        mask: (z, y, x) in the axes of the geometry.
        geometry: Where it lies.
        channels: Intensities (c, z, y, x), or None.
    """
    for number, (component, box) in enumerate(components_of(mask), start=1):
        voxels = np.argwhere(component) + [part.start for part in box]
        corners, _, _ = mesh_of(component, geometry.spacing_mm)
        center = np.array(geometry.direction) @ (voxels.mean(axis=0) * geometry.spacing_mm)
        x, y, z = (float(value) for value in center + geometry.origin_mm)
        inside = () if channels is None else (part[box][component] for part in channels)
        yield LesionMeasurement(
            case=case,
            label=label,
            lesion=number,
            volume_ml=len(voxels) * math.prod(geometry.spacing_mm) / CUBIC_MM_PER_ML,
            longest_axial_mm=longest_axial_mm(component, geometry.spacing_mm),
            longest_3d_mm=longest_distance(corners),
            center_mm=(x, y, z),
            intensities=tuple(_statistics(values) for values in inside),
        )


def components_of(mask: Mask) -> list[tuple[Mask, tuple[slice, ...]]]:
    """Return each component (26 neighbors) cut to its box, and the box; the largest first.

    Of equally large ones the first in the array comes first.
    """
    numbers, _ = ndimage.label(mask, np.ones((3,) * mask.ndim, dtype=bool))
    boxes = ndimage.find_objects(numbers)
    sizes = np.bincount(numbers.ravel())[1:]
    order = np.argsort(-sizes, kind="stable")
    return [(numbers[boxes[index]] == index + 1, boxes[index]) for index in order]


def csv_text(table: MeasurementTable) -> str:
    """Return one line a lesion; intensities from the second channel on end in `_1`, `_2`."""
    channels = max((len(lesion.intensities) for lesion in table.lesions), default=0)
    names = [
        f"{name}_{channel}" if channel else name
        for channel in range(channels)
        for name in IntensityStatistics.model_fields
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    sizes = ("volume_ml", "longest_axial_mm", "longest_3d_mm")
    centers = ("center_x_mm", "center_y_mm", "center_z_mm")
    writer.writerow(("case", "label", "lesion", *sizes, *centers, *names))
    for lesion in table.lesions:
        values = [getattr(lesion, name) for name in sizes] + list(lesion.center_mm)
        values += [value for part in lesion.intensities for _, value in part]
        writer.writerow(
            (lesion.case, lesion.label, lesion.lesion, *(f"{value:.6g}" for value in values))
        )
    return stream.getvalue()


def write_measurements(table: MeasurementTable, path: Path) -> tuple[Path, Path]:
    """Write a table as `path` with the endings .json and .csv; return both paths."""
    stem = path.with_suffix("") if path.suffix in (".json", ".csv") else path
    json_path, csv_path = (stem.with_name(stem.name + ending) for ending in (".json", ".csv"))
    serial.save(table, json_path)
    serial.write_text(csv_text(table), csv_path)
    return json_path, csv_path


def read_masked(mask: Path, images: Sequence[Path]) -> tuple[Image, Image | None]:
    """Read a label map and its image, which must lie on one grid.

    Raises:
        GeometryError: They do not.
        ImageError: A file cannot be read.
    """
    label_map = read_label_map(mask)
    if not images:
        return label_map, None
    image = read_image(images)
    differences = grid_differences(label_map.geometry, image.geometry)
    if differences:
        raise GeometryError(
            f"{mask}: not on the grid of {images[0]}: {'; '.join(differences)}",
            remedy="Resample one of them to the grid of the other.",
        )
    if not np.isfinite(image.array).all():
        raise SelfSegError(
            f"{images[0]}: contains NaN or infinite values",
            remedy="Replace them, for instance by the background value.",
        )
    return label_map, image


def _measure_files(case: MaskedCase) -> list[LesionMeasurement] | SelfSegError:
    """Measure one case; a mistake of the user comes back as a value."""
    try:
        label_map, image = read_masked(case.mask, case.images)
        targets = case.targets or _occurring(case.mask, np.unique(label_map.array))
        indices = label_indices(label_map.array[0], targets.labels, targets.ignore)
    except SelfSegError as error:
        if isinstance(error, DatasetError):  # about values: it does not name the file
            return SelfSegError(f"{case.mask}: {error.message}")
        return error
    channels = None if image is None else image.array
    return [
        lesion
        for name, members in zip(targets.names, targets.members, strict=True)
        for lesion in measure_lesions(
            case.id, name, mask_of(indices, members), label_map.geometry, channels
        )
    ]


def _occurring(path: Path, values: npt.NDArray[np.integer]) -> Targets:
    """Return a label for each value; refuse what must be an image (were -p and -i swapped?)."""
    if values[0] < 0 or len(values) > MOST_VALUES:
        raise SelfSegError(
            f"{path}: {len(values)} values from {values[0]} to {values[-1]} are no labels; is it "
            "an image?"
        )
    return numbered_targets(int(value) for value in values)


def _statistics(values: npt.NDArray[np.floating]) -> IntensityStatistics:
    inside = np.asarray(values, np.float64)
    p10, median, p90 = (float(value) for value in np.percentile(inside, (10, 50, 90)))
    return IntensityStatistics(
        mean=float(inside.mean()),
        standard_deviation=float(inside.std()),
        minimum=float(inside.min()),
        p10=p10,
        median=median,
        p90=p90,
        maximum=float(inside.max()),
    )
