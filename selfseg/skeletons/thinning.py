"""Thinning of masks to center lines that keep their topology, in 2D and 3D.

Voxels whose removal changes no topology are removed layer by layer, those near the surface first,
one parity of the grid at a time: no two voxels of a parity touch, so all of them can go at once
(subfields: Bertrand and Aktouf, 1995). The 3D thinning of scikit-image loses tubes of even width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from selfseg.skeletons.graph import find_spurs, link
from selfseg.skeletons.simple import Steps, is_end, is_simple, neighborhoods, steps_of

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Places = npt.NDArray[np.intp]
Shape = tuple[int, ...]
FACE_BITS = (4, 10, 12, 14, 16, 22)
SPUR_RATIO, SPUR_SLACK = 1.5, 1.5  # the latter in voxels


def thin(mask: Mask, spacing_mm: Sequence[float] | None = None) -> Mask:
    """Return the center lines of a mask: same components, holes, tunnels and cavities.

    Spurs that hardly leave the body they branch from are pruned.

    Args:
        mask: Boolean array (Y, X) or (Z, Y, X).
        spacing_mm: Voxel size per axis, for what the center is; default: the same along all.

    Returns:
        Boolean array of the same shape; a subset of the mask.
    """
    from scipy import ndimage

    result = np.zeros(mask.shape, bool)
    found = ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]
    if found is None:
        return result
    inner = mask[found]
    sizes = np.ones(mask.ndim) if spacing_mm is None else np.asarray(spacing_mm, float)
    depth = inner_distance(inner, sizes) / sizes.min()
    added = 3 - mask.ndim
    relative = np.concatenate([np.ones(added), sizes / sizes.min()])
    kept = _thin(inner.reshape((1,) * added + inner.shape), depth.ravel(), relative)
    result[found] = kept.reshape(inner.shape)
    return result


def inner_distance(mask: Mask, spacing_mm: Floats) -> Floats:
    """Return the distance of each voxel to the nearest background center.

    What lies beyond the array is background, except along an axis of a single voxel: there the
    mask is a plane, and its center is that of its outline. Along a line all distances are 1.
    """
    from scipy import ndimage

    lasting = [size > 1 for size in mask.shape]
    if sum(lasting) < 2:
        return np.ones(mask.shape)
    padded = np.pad(mask.squeeze(), 1)
    distance = ndimage.distance_transform_edt(padded, sampling=spacing_mm[lasting])
    inner: Floats = distance[(slice(1, -1),) * padded.ndim].reshape(mask.shape)
    return inner


@dataclass(frozen=True)
class _Body:
    """A padded (Z, Y, X) array that is thinned in place, flattened.

    Attributes:
        shape: Of the padded array.
        voxels: 1 inside, 0 outside.
        fresh: Whether a voxel's neighborhood has changed since the voxel was last looked at: while
            it has not, the voxel stays.
    """

    shape: Shape
    voxels: npt.NDArray[np.uint8]
    fresh: Mask

    @cached_property
    def steps(self) -> Steps:
        """What leads from a voxel to the cells around it."""
        return steps_of(self.shape)

    def remove(self, places: Places) -> None:
        """Remove voxels; those around are to be looked at again."""
        self.voxels[places] = 0
        self.fresh[places[:, None] + self.steps] = True


def _thin(mask: Mask, depth: Floats, voxel: Floats) -> Mask:
    """Thin a (Z, Y, X) mask, given the depth of each voxel, flattened, and the size of a voxel."""
    padded = np.pad(mask, 1).astype(np.uint8)
    body = _Body(padded.shape, padded.ravel(), np.ones(padded.size, bool))
    inside = np.flatnonzero(body.voxels)
    radius = np.zeros(padded.size)
    radius[inside] = depth[mask.ravel()]
    levels = np.rint(radius[inside]).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    bounds = np.flatnonzero(np.diff(levels[order])) + 1
    active = np.empty(0, np.intp)
    for shell in np.split(inside[order], bounds):
        active = _peel(body, np.concatenate([active, shell]))
    _prune(body, active, radius, voxel)
    inner: Mask = padded[1:-1, 1:-1, 1:-1] > 0
    return inner


def _prune(body: _Body, active: Places, radius: Floats, voxel: Floats) -> None:
    """Remove spurs, in place, until there are none."""
    while True:
        active = np.sort(active)
        graph = link(active, body.shape, voxel)
        found = find_spurs(graph, radius[active], ratio=SPUR_RATIO, slack=SPUR_SLACK)
        spurs = active[found]
        body.fresh[spurs] = True  # ends may go now
        if len(spurs) == len(_peel(body, spurs, keep_ends=False)):
            return
        active = _peel(body, active)


def _peel(body: _Body, active: Places, *, keep_ends: bool = True) -> Places:
    """Remove, in place, layers of the active voxels until only curves are left; return those."""
    while True:
        active = active[body.voxels[active] > 0]
        border = active[_is_border(body, active)]
        if not body.fresh[border].any():
            return active
        for field in _fields(border, body.shape):
            places = field[body.fresh[field]]
            body.fresh[places] = False
            codes = neighborhoods(body.voxels, places, body.steps)
            removable = is_simple(codes)
            if keep_ends:
                removable &= ~is_end(codes)
            body.remove(places[removable])


def _fields(places: Places, shape: Shape) -> list[Places]:
    """Return the places of each parity that has some, in their order."""
    z, y, x = np.unravel_index(places, shape)
    parity = (z & 1) << 2 | (y & 1) << 1 | (x & 1)
    return [places[parity == field] for field in np.flatnonzero(np.bincount(parity))]


def _is_border(body: _Body, places: Places) -> Mask:
    """Tell which places have background at a face."""
    faces = np.ones(len(places), np.uint8)
    for bit in FACE_BITS:
        faces &= body.voxels[places + body.steps[bit]]
    border: Mask = faces == 0
    return border
