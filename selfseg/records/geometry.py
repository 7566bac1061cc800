"""Where an image lies in the world, and how it was turned into canonical orientation."""

from __future__ import annotations

from selfseg.records.serial import Record, Shape3, Triple


class Geometry(Record):
    """Shape, spacing, origin and direction of an image; per-axis tuples are (Z, Y, X).

    A 2D image has shape (1, Y, X), `is_2d`, and 1.0 as first spacing.

    Attributes:
        shape: Voxels per axis.
        spacing_mm: Voxel size per axis.
        origin_mm: World point (LPS: x, y, z) of the centre of voxel (0, 0, 0).
        direction: World rows (x, y, z) by array columns (Z, Y, X); unit columns.
        is_2d: True for a plain 2D image.
    """

    shape: Shape3
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[Triple, Triple, Triple] = (
        (0.0, 0.0, 1.0),
        (0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0),
    )
    is_2d: bool = False


class Orientation(Record):
    """The permutation and flips that bring a native array to the closest canonical (LPS) axes.

    `canonical = native.transpose(permutation)`, then flipped along the axes of `flips`
    (canonical axes). Canonical: Z grows to superior, Y to posterior, X to left.
    """

    permutation: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)


class Box(Record):
    """A half-open box of voxels per axis: `array[lower[0]:upper[0], …]`."""

    lower: Shape3
    upper: Shape3

    @property
    def shape(self) -> Shape3:
        """Voxels per axis."""
        z, y, x = (high - low for low, high in zip(self.lower, self.upper, strict=True))
        return (z, y, x)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Indexing of a (Z, Y, X) array."""
        z, y, x = (slice(low, high) for low, high in zip(self.lower, self.upper, strict=True))
        return (z, y, x)


class CompanionRecord(Record):
    """An array beside a preprocessed case's: `source` is a digest of all it was made from."""

    id: str
    source: str


class PreprocessedCase(Record):
    """What is needed to use a preprocessed case and to bring a prediction back exactly.

    Axis order of the working grid is the plan's (`axes` permutes canonical axes). Chain: native →
    canonical (orientation) → transposed (axes, flips) → cropped (crop) → resampled (shape).

    Attributes:
        id: Case id.
        source: Digest of the case's files and of the preprocessing options; decides if up to date.
        native: Geometry as stored in the file.
        orientation: Native → canonical.
        axes: Canonical → working axis order (`array.transpose(axes)`).
        flips: Working axes that run against the canonical ones.
        crop: Nonzero box in the transposed array.
        shape_before_crop: Shape of the transposed array.
        spacing_before_mm: Spacing of the transposed array.
        shape: Shape after resampling (Z, Y, X in working order).
        spacing_mm: Spacing after resampling.
        num_locations: Stored locations of each label, or of each region.
        num_annotated: Stored locations of annotated voxels, after those; 0 where all are annotated.
    """

    id: str
    source: str
    native: Geometry
    orientation: Orientation
    axes: tuple[int, int, int]
    crop: Box
    shape_before_crop: Shape3
    spacing_before_mm: Triple
    shape: Shape3
    spacing_mm: Triple
    num_locations: tuple[int, ...] = ()
    num_annotated: int = 0
    flips: tuple[bool, bool, bool] = (False, False, False)
