"""Measured facts about the shape of a label: in one case, and over all cases."""

from __future__ import annotations

from selfseg.records.serial import Record, Shape3, Triple


class TubeFacts(Record):
    """The center lines of a label, as if it were made of tubes.

    Attributes:
        r50_mm, r95_mm: Percentiles of the radius over the voxels of the center lines.
        length_mm: Of the center lines, with the radius at each of their ends.
        elongation: Length over median diameter, of each component; mean, weighted with volume.
        branch_elongation: Length over mean diameter, of each branch (between junctions and ends);
            mean, weighted with length. The center lines of a lumpy body branch until they fill
            it: long in sum, each of them short.
        tube_ratio: Volume over that of a tube of `length_mm` and `r50_mm`: about 1 for tubes.
        thin_share: Share of the center lines where the diameter is at most 3 voxels.
    """

    r50_mm: float
    r95_mm: float
    length_mm: float
    elongation: float
    branch_elongation: float
    tube_ratio: float
    thin_share: float


class ShapeFacts(Record):
    """The shape of one label in one case; in a plane areas and outlines take the part of volumes.

    Attributes:
        components: Number of 26-connected components (8-connected in a plane).
        largest_share: Volume share of the largest component, in (0, 1].
        diameter_p10_mm, diameter_p90_mm: Percentiles, over components, of the diameter of a ball
            of the same volume.
        sphericity: Area of the ball of the same volume over that of the (smoothed) surface: 1 for
            a ball, 0.81 for a cube. In a plane: of circumferences.
        tubes: Length and width.
        position: Center of mass in units of the body's box: in [0, 1] inside of it.
        contrast: Per channel: median step of intensity across the surface, over the standard
            deviation inside; None without a surface inside the image, or where that is 0.
        coarsening: Voxels per axis that were merged into one before `tubes` were measured.
        occupancy: The label in a cube around its center of mass, scaled to its size: bits, packed.
    """

    components: int
    largest_share: float
    diameter_p10_mm: float
    diameter_p90_mm: float
    sphericity: float
    tubes: TubeFacts
    position: Triple
    contrast: tuple[float | None, ...]
    coarsening: Shape3
    occupancy: str


class ShapeSummary(Record):
    """The shape of one label over the cases that have it; `median_…` as in `ShapeFacts`.

    Attributes:
        share_of_cases: Of the cases that have the label.
        components_mode: Most frequent number of components; the smallest of several.
        median_size_spread: Of the 90th over the 10th percentile of diameters of components.
        volume_cv: Standard deviation of the volume over its mean; None for fewer than two cases.
        aligned_dice: Mean Dice of pairs of cases, each moved to its center and scaled to its size;
            None for fewer than two cases.
        position_spread: Standard deviation of the position, along the axis where it is largest;
            None for fewer than two cases.
    """

    share_of_cases: float
    components_mode: int
    median_largest_share: float
    median_size_spread: float
    median_sphericity: float
    median_r50_mm: float
    median_r95_mm: float
    median_length_mm: float
    median_elongation: float
    median_branch_elongation: float
    median_tube_ratio: float
    median_thin_share: float
    median_contrast: tuple[float | None, ...]
    volume_cv: float | None
    aligned_dice: float | None
    position_spread: float | None
