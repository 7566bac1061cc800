"""What `selfseg measure` gives: size, place and intensities of every lesion."""

from __future__ import annotations

from selfseg.records.serial import Record, Triple


class IntensityStatistics(Record):
    """Intensities of one channel inside a lesion, in units of the image."""

    mean: float
    standard_deviation: float
    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float


class LesionMeasurement(Record):
    """One connected component (26 neighbors) of one label in one case.

    Attributes:
        case: Id of the case.
        label: Name of the label, or of the region.
        lesion: 1 for the largest component of that label in that case, then by size.
        volume_ml: Of its voxels.
        longest_axial_mm: Longest distance in one axial slice, from contour to contour.
        longest_3d_mm: Longest distance of two points of its surface.
        center_mm: Center of its voxels in the world (x, y, z in LPS).
        intensities: For each channel of the image; empty without images.
    """

    case: str
    label: str
    lesion: int
    volume_ml: float
    longest_axial_mm: float
    longest_3d_mm: float
    center_mm: Triple
    intensities: tuple[IntensityStatistics, ...] = ()


class MeasurementTable(Record):
    """Lesions of all cases; `empty` names the cases without any."""

    lesions: tuple[LesionMeasurement, ...]
    empty: tuple[str, ...] = ()
