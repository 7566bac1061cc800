"""Distances between the surfaces of two masks, and the metrics that follow from them.

Each surface element counts with its size (Nikolov et al., 2018, arXiv:1809.04430), so a metric
does not depend on how the voxel grid happens to cut a surface. All metrics are symmetric. A
volume that is one voxel thick along one axis is measured in its plane: contours, not surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from selfseg.evaluation.surfels import neighbor_codes, surfel_sizes
from selfseg.records.serial import Triple

# A distance of exactly the tolerance is within it, whatever the last digits of the spacing say.
ROUNDING_MM = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces A and B, sorted, with the sizes of the elements.

    Attributes:
        from_a_mm, from_b_mm: Distance of each element of one surface to the other surface;
            infinite if the other is empty.
        sizes_a, sizes_b: Area in mm² (length in mm in a plane) of each element.
    """

    from_a_mm: np.ndarray
    sizes_a: np.ndarray
    from_b_mm: np.ndarray
    sizes_b: np.ndarray

    @property
    def defined(self) -> bool:
        """Whether both surfaces exist."""
        return len(self.from_a_mm) > 0 and len(self.from_b_mm) > 0


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing_mm: Triple, known: np.ndarray | None = None
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Args:
        a: Boolean array (z, y, x). What lies beyond the array is outside.
        b: Boolean array of the same shape.
        spacing_mm: Voxel size.
        known: Where `b` is known; default: everywhere. Elsewhere both masks are taken to be as at
            the nearest known voxel, so that the end of what is known makes no surface, and elements
            that touch no known voxel are left out.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks should have one shape, not {a.shape} and {b.shape}")
    if known is not None:
        a, b, known = continued(a, b, known, spacing_mm)
    thin = [axis for axis, size in enumerate(a.shape) if size == 1]
    spacing: tuple[float, ...] = spacing_mm
    if len(thin) == 1:
        a, b = a.squeeze(thin[0]), b.squeeze(thin[0])
        known = None if known is None else known.squeeze(thin[0])
        spacing = tuple(size for axis, size in enumerate(spacing_mm) if axis != thin[0])
    box = bounding_box(a | b)
    (cells_a, sizes_a), (cells_b, sizes_b) = (_elements(m[box], spacing) for m in (a, b))
    places_a, places_b = (cells * np.asarray(spacing) for cells in (cells_a, cells_b))
    if known is None:
        from_a, sorted_a = _distances(places_a, sizes_a, places_b)
        from_b, sorted_b = _distances(places_b, sizes_b, places_a)
    else:
        touched = neighbor_codes(known[box]) != 0
        kept_a, kept_b = (touched[tuple(cells.T)] for cells in (cells_a, cells_b))
        from_a, sorted_a = _distances(places_a[kept_a], sizes_a[kept_a], places_b)
        from_b, sorted_b = _distances(places_b[kept_b], sizes_b[kept_b], places_a)
    return SurfaceDistances(from_a, sorted_a, from_b, sorted_b)


def hausdorff_mm(distances: SurfaceDistances, *, percent: float = 95.0) -> float | None:
    """Return the percentile Hausdorff distance in mm; None if a surface is empty.

    The larger of both directions; in each, the distance that `percent` of the surface stays
    within. 100 is the classical maximum.
    """
    if not distances.defined:
        return None
    return max(
        _percentile(distances.from_a_mm, distances.sizes_a, percent),
        _percentile(distances.from_b_mm, distances.sizes_b, percent),
    )


def average_distance_mm(distances: SurfaceDistances) -> float | None:
    """Return the average symmetric surface distance in mm; None if a surface is empty."""
    if not distances.defined:
        return None
    total = distances.from_a_mm @ distances.sizes_a + distances.from_b_mm @ distances.sizes_b
    return float(total / (distances.sizes_a.sum() + distances.sizes_b.sum()))


def normalized_surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float | None:
    """Return the share of both surfaces within a tolerance; None if both are empty."""
    total = distances.sizes_a.sum() + distances.sizes_b.sum()
    if total == 0:
        return None
    limit_mm = tolerance_mm + ROUNDING_MM
    near_a = distances.sizes_a[distances.from_a_mm <= limit_mm].sum()
    near_b = distances.sizes_b[distances.from_b_mm <= limit_mm].sum()
    return float((near_a + near_b) / total)


def continued(
    a: np.ndarray, b: np.ndarray, known: np.ndarray, spacing_mm: Triple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two masks continued from their known voxels, and what is known, around the masks.

    What one mask has elsewhere must not be given to the other: distances to it would be short.
    """
    a, b = a & known, b & known
    box = bounding_box(a | b, margin=1)
    a, b, known = a[box], b[box], known[box]
    if known.all() or not known.any():
        return a, b, known
    nearest = ndimage.distance_transform_edt(
        ~known, spacing_mm, return_distances=False, return_indices=True
    )
    return a[tuple(nearest)], b[tuple(nearest)], known


def bounding_box(mask: np.ndarray, *, margin: int = 0) -> tuple[slice, ...]:
    """Return the box of a mask, and a margin as far as it fits; empty if the mask is."""
    found = ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]
    if found is None:
        return tuple(slice(0, 0) for _ in mask.shape)
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in found)


def _elements(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells (n, axes) and the sizes (n,) of the elements of a surface."""
    codes = neighbor_codes(mask)
    cells = np.argwhere((codes != 0) & (codes != 2 ** (2**codes.ndim) - 1))
    return cells, surfel_sizes(spacing_mm)[codes[tuple(cells.T)]]


def _distances(
    places: np.ndarray, sizes: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distances of places to the nearest target, and sizes in that order."""
    if len(target) == 0 or len(places) == 0:
        return np.full(len(places), np.inf), sizes
    # On a lattice the quick way to build the tree is also the quick one to search.
    tree = KDTree(target, balanced_tree=False, compact_nodes=False)
    found = tree.query(places)[0]
    order = np.argsort(found, kind="stable")
    return found[order], sizes[order]


def _percentile(distances: np.ndarray, sizes: np.ndarray, percent: float) -> float:
    """Return the smallest distance that at least `percent` of the (sorted) surface keeps."""
    share = np.cumsum(sizes) / sizes.sum()
    position = int(np.searchsorted(share, percent / 100))
    return float(distances[min(position, len(distances) - 1)])
