"""Center lines of a mask: how long, how wide, how much like a tube."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from selfseg.records.shapes import TubeFacts
from selfseg.skeletons.graph import Graph, link
from selfseg.skeletons.thinning import thin

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]


def measure_tubes(mask: Mask, spacing_mm: Floats, *, thin_mm: float) -> TubeFacts:
    """Measure the center lines of a mask, not empty, of two or three axes.

    The center line ends where the largest ball does, so the radius at each end counts as length.

    Args:
        mask: (Y, X) or (Z, Y, X); what lies beyond is background.
        spacing_mm: Voxel size, per axis.
        thin_mm: Diameter up to which a tube is thin.
    """
    from scipy import ndimage

    line = thin(mask, tuple(spacing_mm))
    radii = radii_mm(mask, line, spacing_mm)
    parts, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    owner = parts[line] - 1
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    graph = _graph(line, spacing_mm)
    lengths = _lengths(graph, radii, owner, count)
    medians = ndimage.median(radii, owner, np.arange(count))
    r50, r95 = (float(value) for value in np.percentile(radii, [50, 95]))
    total = float(lengths.sum())
    section = np.pi * r50**2 if mask.ndim == 3 else 2 * r50
    return TubeFacts(
        r50_mm=r50,
        r95_mm=r95,
        length_mm=total,
        elongation=float(np.average(lengths / (2 * medians), weights=sizes)),
        branch_elongation=_branch_elongation(graph, radii),
        tube_ratio=float(sizes.sum() * np.prod(spacing_mm) / (total * section)),
        thin_share=float(np.mean(2 * radii <= thin_mm)),
    )


def radii_mm(mask: Mask, line: Mask, spacing_mm: Floats) -> Floats:
    """Return the radius of the mask at each voxel of its center line, in the line's order.

    The distance to the nearest background voxel, less the half of it that is background. Where
    the width is even, the line lies half a voxel beside the middle: the voxel opposite to the
    nearest background is foreground, and the half stays.
    """
    from scipy import ndimage
    from scipy.spatial import KDTree

    padded = np.pad(mask, 1)
    around = np.argwhere(ndimage.binary_dilation(padded) & ~padded)
    places = np.argwhere(np.pad(line, 1))
    # On a lattice the quick way to build the tree is also the quick one to search.
    tree = KDTree(around * spacing_mm, balanced_tree=False, compact_nodes=False)
    distance, nearest = tree.query(places * spacing_mm)
    ways = around[nearest] - places
    opposite = (places - ways).clip(0, np.array(padded.shape) - 1)
    is_even = padded[tuple(opposite.T)]
    half = np.linalg.norm(ways * spacing_mm**2, axis=1) / distance / 2
    radii: Floats = distance - np.where(is_even, 0, half)
    return radii


def coarsen(
    mask: Mask, spacing_mm: Floats, *, most_voxels: int, most_inside: int
) -> tuple[Mask, Indices]:
    """Merge blocks of voxels, the finest axes first, until the array and the mask are small.

    As many blocks become foreground as keep its volume, the fullest ones: so thin tubes stay.

    Args:
        mask: Of two or three axes.
        spacing_mm: Voxel size, per axis.
        most_voxels: Of the array.
        most_inside: About so many of the mask.

    Returns:
        The mask, and the voxels per axis that became one.
    """
    factors, inside = np.ones(mask.ndim, np.intp), np.count_nonzero(mask)
    while _blocks(mask.shape, factors) > most_voxels or inside > most_inside * factors.prod():
        factors[np.argmin(np.where(factors < mask.shape, factors * spacing_mm, np.inf))] += 1
    if (factors == 1).all():
        return mask, factors
    starts = [np.arange(0, n, factor) for n, factor in zip(mask.shape, factors, strict=True)]
    filled = mask.astype(np.int32)
    for axis, places in enumerate(starts):
        filled = np.add.reduceat(filled, places, axis=axis)
    blocks = np.bincount(filled.ravel())  # by the number of voxels they hold
    kept = np.cumsum(blocks[:0:-1])  # blocks with at least so many voxels, from full ones on
    wanted = inside / factors.prod()
    least = len(blocks) - 1 - int(np.argmin(np.abs(kept - wanted)))
    return filled >= least, factors


def _blocks(shape: tuple[int, ...], factors: Indices) -> int:
    """Return the number of blocks of so many voxels per axis, the last ones maybe smaller."""
    return int(np.prod(-(-np.array(shape) // factors)))


def _graph(line: Mask, spacing_mm: Floats) -> Graph:
    """Return the graph of a center line, its voxels in the line's order."""
    added = 3 - line.ndim
    padded = np.pad(line.reshape((1,) * added + line.shape), 1)
    return link(np.flatnonzero(padded), padded.shape, np.concatenate([np.ones(added), spacing_mm]))


def _lengths(graph: Graph, radii: Floats, owner: Indices, count: int) -> Floats:
    """Return the length of the curves of each component, from end to end of the mask."""
    lengths = np.bincount(owner[graph.first], graph.lengths, count).astype(float)
    lengths += np.bincount(owner, _end_lengths(graph, radii), count)
    return lengths


def _branch_elongation(graph: Graph, radii: Floats) -> float:
    """Return length over mean diameter of the branches; mean, weighted with length.

    Branches are what is left without the junctions. A link to a junction is its branch's; links
    between junctions are nobody's, and where nothing is left, the value is 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, inner = len(radii), graph.degrees <= 2
    if not inner.any():
        return 0.0
    a, b = inner[graph.first], inner[graph.second]
    pairs = (graph.first[a & b], graph.second[a & b])
    links = coo_array((np.ones(len(pairs[0])), pairs), shape=(count, count))
    _, branch = connected_components(links, directed=False)
    owner = branch[np.where(a, graph.first, graph.second)]
    lengths = np.bincount(branch, _end_lengths(graph, radii), count)
    lengths += np.bincount(owner, graph.lengths * (a | b), count)
    sums = np.bincount(branch, radii, count)
    sizes = np.bincount(branch, minlength=count)
    of_lines = np.flatnonzero(np.bincount(branch, inner, count))
    lengths, radius = lengths[of_lines], sums[of_lines] / sizes[of_lines]
    return float(np.average(lengths / (2 * radius), weights=lengths))


def _end_lengths(graph: Graph, radii: Floats) -> Floats:
    """Return what the ends of curves add to their length; a single voxel has two ends."""
    added: Floats = (2 - graph.degrees).clip(0, 2) * radii
    return added
