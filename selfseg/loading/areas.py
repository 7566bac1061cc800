"""The part of a case that a sample is cut from: all of it, or a box around one component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfseg.loading.sampling import Corner, Locations, corner_around, draw_center, random_corner
from selfseg.records.geometry import Box


@dataclass(frozen=True)
class Area:
    """Where positions are drawn.

    Attributes:
        lower: Its first voxel.
        shape: Its voxels per axis.
        locations, counts, annotated: As of a stored case, within the area.
    """

    lower: Corner
    shape: tuple[int, ...]
    locations: Locations
    counts: tuple[int, ...]
    annotated: int

    def draw_corner(
        self,
        loaded: Sequence[int],
        final: Sequence[int],
        rng: np.random.Generator,
        *,
        forced: bool,
    ) -> Corner:
        """Draw the corner of a patch: around foreground if that is forced, else anywhere.

        Args:
            loaded: Voxels of the patch that is loaded.
            final: Voxels of the patch that is left of it; it stays within the area.
            rng: Stream.
            forced: Whether foreground must be shown.
        """
        voxel = draw_center(
            self.counts, self.annotated, self.locations.__getitem__, rng, forced=forced
        )
        if voxel is None:
            corner = random_corner(loaded, final, self.shape, rng)
        else:
            inside = [at - low for at, low in zip(voxel, self.lower, strict=True)]
            corner = corner_around(inside, loaded, final, self.shape)
        return tuple(at + low for at, low in zip(corner, self.lower, strict=True))


def area_of(
    shape: tuple[int, ...],
    locations: Locations,
    counts: Sequence[int],
    annotated: int,
    box: Box | None = None,
) -> Area:
    """Return the area of a whole case, or of a box in it.

    Args:
        shape: Of the case.
        locations: Its stored voxels (n, 3): of the labels or regions, then annotated ones.
        counts: Rows of each label or region.
        annotated: Rows of annotated voxels.
        box: Part of the case; None is all of it.
    """
    if box is None:
        return Area((0, 0, 0), shape, locations, tuple(counts), annotated)
    inside = ((locations >= box.lower) & (locations < box.upper)).all(axis=1)
    parts = np.split(inside, np.cumsum((*counts, annotated))[:-1])
    *kept, known = (int(part.sum()) for part in parts)
    # Where voxels are annotated but none of them here, any position is as good as another.
    return Area(box.lower, box.shape, locations[inside], tuple(kept), known)
