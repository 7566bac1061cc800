"""How deep a U-Net goes and where it pools: strides, kernels and the patch padded to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

SMALLEST_EDGE = 4  # voxels of the deepest feature map along a pooled axis
LONE_AXIS_EDGE = 3 * SMALLEST_EDGE  # an axis that pools alone needs so many before pooling
NEAR_SPACING = 2.0  # axes within this factor of the finest pool, and are convolved, together


@dataclass(frozen=True)
class Topology:
    """Strides and kernels per stage (the first stride is all ones), and the padded patch."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]

    @property
    def divisors(self) -> tuple[int, ...]:
        """Total stride per axis."""
        totals = [1] * len(self.patch)
        for stride in self.strides:
            totals = [total * step for total, step in zip(totals, stride, strict=True)]
        return tuple(totals)


def decide_topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Pool the axes of near-equal spacing together until they are too short.

    Args:
        spacing: Working spacing per axis.
        patch: Wished patch per axis; the result's patch is padded up to the total stride.
    """
    dims = len(patch)
    now, size = [float(s) for s in spacing], [float(p) for p in patch]
    kernel = [1] * dims
    strides, kernels = [(1,) * dims], []
    while pooled := _axes_to_pool(now, size):
        finest = min(now)
        kernel = [3 if s / finest < NEAR_SPACING else k for s, k in zip(now, kernel, strict=True)]
        stride = tuple(2 if axis in pooled else 1 for axis in range(dims))
        strides.append(stride)
        kernels.append(tuple(kernel))
        now = [s * step for s, step in zip(now, stride, strict=True)]
        size = [ceil(n / step) for n, step in zip(size, stride, strict=True)]
    kernels.append((3,) * dims)
    topology = Topology(tuple(strides), tuple(kernels), tuple(ceil(p) for p in patch))
    padded = tuple(ceil(p / d) * d for p, d in zip(topology.patch, topology.divisors, strict=True))
    return Topology(topology.strides, topology.kernels, padded)


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float]) -> tuple[int, ...]:
    """Return the axes of the next pooling; none ends the network."""
    long_enough = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST_EDGE]
    if not long_enough:
        return ()
    finest = min(spacing[axis] for axis in long_enough)
    near = tuple(axis for axis in long_enough if spacing[axis] / finest < NEAR_SPACING)
    if len(near) == 1 and size[near[0]] < LONE_AXIS_EDGE:
        return ()
    return near
