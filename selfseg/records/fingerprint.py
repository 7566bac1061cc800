"""Measured facts of a dataset; no decision in it."""

from __future__ import annotations

from typing import Literal

from selfseg.records.serial import Record, Shape3, Triple
from selfseg.records.shapes import ShapeFacts, ShapeSummary

# Percentiles kept per case and channel: fine in the tails, where the CT clip is read off.
SKETCH_PERCENTS: tuple[float, ...] = (
    *(i / 20 for i in range(20)),
    *(float(i) for i in range(1, 99)),
    *(99 + i / 20 for i in range(21)),
)


class IntensitySketch(Record):
    """Foreground intensities of one case and channel; `quantiles` follow SKETCH_PERCENTS."""

    count: int
    mean: float = 0.0
    std: float = 0.0
    quantiles: tuple[float, ...] = ()


class LabelFacts(Record):
    """One label in one case, measured on the native grid.

    Attributes:
        voxels: Number of voxels.
        volume_ml: Volume.
        components: Number of 26-connected components (8-connected in 2D).
        largest_share: Share of the largest component, in [0, 1]; 0 if absent.
        extent_mm: Bounding-box size per axis (Z, Y, X canonical).
        shape: None if absent.
    """

    voxels: int
    volume_ml: float
    components: int
    largest_share: float
    extent_mm: Triple
    shape: ShapeFacts | None = None


class CaseFacts(Record):
    """One case. Axes are canonical (Z, Y, X); `digest` is the key of the cache.

    Facts of labels and intensities are those of the annotated voxels; `annotated_share` is theirs
    after the crop, which is what training sees.
    """

    id: str
    digest: str
    shape: Shape3
    shape_after_crop: Shape3
    spacing_mm: Triple
    is_2d: bool
    integer_intensities: bool
    intensities: tuple[IntensitySketch, ...]
    labels: tuple[LabelFacts, ...]
    annotated_share: float = 1.0


class IntensityFacts(Record):
    """Foreground intensities of one channel over all cases, each case weighing the same."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


class LabelSummary(Record):
    """One label over all cases; medians are over the cases that have it."""

    name: str
    share_of_cases: float
    median_voxels: float
    median_volume_ml: float
    median_components: float
    median_largest_share: float
    median_extent_mm: Triple
    shape: ShapeSummary | None = None


class Fingerprint(Record):
    """Facts of a dataset: per case, per channel, per label."""

    schema_version: Literal[1] = 1
    cases: tuple[CaseFacts, ...]
    intensities: tuple[IntensityFacts, ...]
    labels: tuple[LabelSummary, ...]
    median_relative_size_after_crop: float
