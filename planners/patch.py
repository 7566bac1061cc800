"""Patch, network and batch of one configuration: as large as the memory target allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from selfseg.records.network import Network
from selfseg.records.plan import Decision

from .counts import count_extra_features, count_features
from .families import REFERENCE_BATCH_2D, REFERENCE_BATCH_3D, Family, build_options
from .topology import LONE_AXIS_EDGE, Topology, decide_topology

START_VOXELS = {2: 2048**2, 3: 256**3}
# On a CPU a step of two patches of 1024² takes half a minute: a day has few of them. Two of 256²
# take about a second and a half; what is learned from pixels needs steps rather than large views.
CPU_START_PIXELS = 256**2
SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Request:
    """What patch and batch follow from.

    Attributes:
        spacing: Working spacing per axis (two or three).
        median_shape: Median shape at that spacing.
        dataset_voxels: Voxels of all training cases at the full-resolution spacing.
        classes: Labels including background.
        channels: Input channels.
        memory_gb: Target.
        count_extras: Count many classes and channels (off reproduces nnU-Net exactly).
        device: `cpu` starts planes from smaller patches.
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    dataset_voxels: float
    classes: int
    channels: int
    memory_gb: float
    count_extras: bool = True
    device: Literal["cpu", "cuda"] = "cuda"

    @property
    def start_voxels(self) -> int:
        """Voxels of the largest patch that is considered."""
        dims = len(self.spacing)
        return CPU_START_PIXELS if self.device == "cpu" and dims == 2 else START_VOXELS[dims]


@dataclass(frozen=True)
class Sizes:
    """Patch, batch and network of one configuration, with the decisions behind them."""

    patch: tuple[int, ...]
    batch: int
    network: Network
    features: int
    decisions: tuple[Decision, ...]


def decide_sizes(request: Request, family: Family, *, name: str) -> Sizes:
    """Start from a patch of the image's shape, shrink it until it fits, fill up with batch.

    Args:
        request: What the sizes follow from.
        family: Network family with its memory reference.
        name: Configuration, for the decisions' subjects.
    """
    dims = len(request.spacing)
    reference_batch = REFERENCE_BATCH_2D if dims == 2 else REFERENCE_BATCH_3D
    reference = family.features_2d if dims == 2 else family.features_3d
    reference *= request.memory_gb / family.memory_gb
    start = start_patch(request.spacing, request.median_shape, request.start_voxels)
    topology = decide_topology(request.spacing, start)
    features = _count(family, topology, request)
    scale = SMALLEST_BATCH / reference_batch if family.shrink_at_batch_2 else 1.0
    steps = 0
    while features * scale > reference:
        smaller = shrink(topology, request)
        if smaller.patch == topology.patch:
            break
        topology = smaller
        features = _count(family, topology, request)
        steps += 1
    is_slow = request.start_voxels < START_VOXELS[dims]
    fits = features * scale <= reference
    fitting = round(reference / features * reference_batch)
    patch = family.full_patch(topology.patch)
    cap = round(request.dataset_voxels * family.batch_share / prod(patch))
    batch = max(min(fitting, cap), SMALLEST_BATCH)
    decisions = (
        Decision(
            rule="patch",
            subject=f"configurations.{name}.patch",
            value=_joined(patch),
            because=f"started at {_joined(start)} (aspect of the spacing, at most "
            f"{request.start_voxels:,} voxels{' on a CPU' if is_slow else ''}, within the median "
            f"image {_joined(request.median_shape)}); after {steps} reductions "
            f"{features / 1e6:,.1f} M feature-map voxels "
            f"{'fit' if fits else 'still exceed'} the {reference / scale / 1e6:,.1f} M of "
            f"{request.memory_gb:g} GB; padded to the total stride {_joined(topology.divisors)}",
        ),
        Decision(
            rule="topology",
            subject=f"configurations.{name}.network",
            value=f"{family.kind}, {len(topology.strides)} stages",
            because="axes of spacing "
            + "×".join(f"{mm:.3g}" for mm in request.spacing)
            + " mm pool "
            "together while within a factor of two of the finest and at least eight voxels long",
        ),
        Decision(
            rule="batch",
            subject=f"configurations.{name}.batch",
            value=str(batch),
            because=f"{fitting} patches fit the memory; at most {family.batch_share:.0%} of the "
            f"data set's voxels in a batch allows {cap}; at least {SMALLEST_BATCH}",
            alternatives=tuple(str(n) for n in sorted({fitting, cap} - {batch}) if n),
        ),
    )
    return Sizes(
        patch=patch,
        batch=batch,
        network=build_options(family, topology),
        features=features,
        decisions=decisions,
    )


def start_patch(
    spacing: Sequence[float], median_shape: Sequence[float], voxels: int
) -> tuple[float, ...]:
    """Return the patch of so many voxels with equal mm per axis, not beyond the image.

    An image too small to be pooled even once gets a patch that can be; it is padded then.
    """
    dims = len(spacing)
    inverse = 1 / np.asarray(spacing)
    scale = (voxels / inverse.prod()) ** (1 / dims)
    patch = tuple(
        float(min(max(1, round(side * scale)), limit))
        for side, limit in zip(inverse, median_shape, strict=True)
    )
    if len(decide_topology(spacing, patch).strides) > 1:
        return patch
    return tuple(max(side, float(LONE_AXIS_EDGE)) for side in patch)


def shrink(topology: Topology, request: Request) -> Topology:
    """Return the next smaller patch with its topology, or the same one if there is none.

    The axis that covers most of the image (of those that can) loses one step of the divisor that it
    would have afterwards, so that 256 becomes 224 and not 192. At least one pooling remains.
    """
    ratio = np.asarray(topology.patch) / np.asarray(request.median_shape)
    for axis in np.argsort(ratio)[::-1]:
        patch = list(topology.patch)
        trial = patch.copy()
        trial[axis] -= topology.divisors[axis]
        patch[axis] -= decide_topology(request.spacing, trial).divisors[axis]
        if patch[axis] < 1:
            continue
        smaller = decide_topology(request.spacing, patch)
        if len(smaller.strides) > 1 and prod(smaller.patch) < prod(topology.patch):
            return smaller
    return topology


def _count(family: Family, topology: Topology, request: Request) -> int:
    network = build_options(family, topology)
    patch = family.full_patch(topology.patch)
    count = count_features(network, patch, request.classes)
    if request.count_extras:
        count += count_extra_features(prod(topology.patch), request.classes, request.channels)
    return count


def _joined(values: Sequence[float]) -> str:
    return "×".join(f"{value:g}" for value in values)
