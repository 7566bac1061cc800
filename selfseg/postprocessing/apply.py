"""Apply post-processing steps to a label map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import numpy as np
from scipy import ndimage

from selfseg.arrays import Indices
from selfseg.postprocessing.components import (
    filled,
    largest_component,
    without_small_components,
)
from selfseg.records.dataset import Targets
from selfseg.records.postprocessing import FillHoles, LargestComponent, MinimumVolume, Step
from selfseg.records.serial import Triple

Box = tuple[slice, slice, slice]


def apply_steps(
    indices: Indices, steps: Iterable[Step], targets: Targets, spacing_mm: Triple
) -> Indices:
    """Return label indices (Z, Y, X) after some steps; the input is not changed.

    What is removed becomes background. Holes are filled where there is background, with the label
    itself or the region's own value. Works in the box of the label: some ten bytes a voxel of it.
    """
    result = indices.copy()
    for step in steps:
        members = _members(step, targets)
        box = _box(result, members)
        if box is None:
            continue
        part = result[box]
        mask = np.isin(part, members)
        match step:
            case LargestComponent():
                part[mask & ~largest_component(mask)] = 0
            case MinimumVolume():
                part[mask & ~without_small_components(mask, step.volume_ml, spacing_mm)] = 0
            case FillHoles():
                part[filled(mask) & (part == 0)] = _own_index(step.name, targets)
            case _:
                assert_never(step)
    return result


def _members(step: Step, targets: Targets) -> tuple[int, ...]:
    """Return the label indices that a step works on."""
    if step.name is None:
        return tuple(range(1, len(targets.labels) + 1))
    return targets.members[targets.names.index(step.name)]


def _own_index(name: str, targets: Targets) -> int:
    for region in targets.regions:
        if region.name == name:
            return targets.index(region.value)
    return 1 + targets.names.index(name)


def _box(indices: Indices, members: tuple[int, ...]) -> Box | None:
    """Return the box of some labels with a margin of one voxel; None where there are none."""
    found = ndimage.find_objects(indices, max_label=max(members))
    boxes = [found[member - 1] for member in members if found[member - 1] is not None]
    if not boxes:
        return None
    z, y, x = (
        slice(max(min(s.start for s in axis) - 1, 0), max(s.stop for s in axis) + 1)
        for axis in zip(*boxes, strict=True)
    )
    return (z, y, x)
