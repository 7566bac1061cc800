"""Whether a coarser 3D configuration is needed, and at which spacing."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from selfseg.records.plan import Decision

from .families import Family
from .patch import Request, Sizes, decide_sizes

TRIGGER = 0.25  # share of the median image that a patch must cover
GROWTH = 1.03  # spacing factor per search step
UNEVEN = 2.0  # only axes finer than the coarsest by more than this grow, until they are level
WORTHWHILE = 2.0  # a coarser image must have so many times fewer voxels
NAME = "3d_lowres"


def decide_low_resolution(
    request: Request, full: Sizes, family: Family, cases: int
) -> tuple[tuple[Request, Sizes] | None, Decision]:
    """Coarsen the spacing until a patch covers a quarter of the image.

    Args:
        request: Of the full-resolution configuration.
        full: Its sizes.
        family: Network family.
        cases: Number of training cases.

    Returns:
        The coarser request and sizes, or None; and the decision.
    """
    covered = prod(full.patch) / prod(request.median_shape)
    if covered >= TRIGGER:
        return None, _left_out(
            f"a patch has {covered:.0%} of the median image's voxels (limit {TRIGGER:.0%})"
        )
    spacing = np.array(request.spacing)
    shape = np.array(request.median_shape)
    while True:
        spacing = _coarsened(spacing)
        low_shape = np.array(request.spacing) / spacing * shape
        low = replace(
            request,
            spacing=tuple(float(s) for s in spacing),
            median_shape=tuple(float(max(1, round(n))) for n in low_shape),
            dataset_voxels=float(low_shape.prod() * cases),
        )
        sizes = decide_sizes(low, family, name=NAME)
        if prod(sizes.patch) / low_shape.prod() >= TRIGGER:
            break
    fewer = float(shape.prod() / low_shape.prod())
    if fewer < WORTHWHILE:
        return None, _left_out(
            f"a patch covers {covered:.0%} of the image, but the coarser image that it would cover "
            f"has only {fewer:.1f} times fewer voxels (limit {WORTHWHILE:g})"
        )
    decision = Decision(
        rule="low_resolution",
        subject=f"configurations.{NAME}",
        value="proposed, at " + "×".join(f"{s:.4g}" for s in spacing) + " mm",
        because=f"a full-resolution patch covers only {covered:.0%} of the median image "
        f"(limit {TRIGGER:.0%}): too little context for large structures",
    )
    return (low, sizes), decision


def _coarsened(spacing: np.ndarray) -> np.ndarray:
    """Grow the finer axes while they are very uneven, else all axes."""
    finer = spacing.max() / spacing > UNEVEN
    return np.where(finer, spacing * GROWTH, spacing) if finer.any() else spacing * GROWTH


def _left_out(because: str) -> Decision:
    return Decision(
        rule="low_resolution",
        subject=f"configurations.{NAME}",
        value="left out",
        because=because,
        alternatives=("planned",),
    )
