"""The 2.5D configuration: how many slices it sees, its sizes, its loss and its augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfseg.records.augmentation import Augmentation
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import BinaryCrossEntropyTerm, CrossEntropyTerm, DiceTerm
from selfseg.records.plan import Decision

from .families import context_family
from .patch import Request, Sizes, decide_sizes
from .rarity import class_voxels
from .training import DEGREES_ELONGATED, DEGREES_PLANE, ELONGATED_2D, REGIONS_REASON

NAME = "2.5d"
CONTEXT_MM = 15.0  # of the body that a slab shows
FEWEST_SLICES, MOST_SLICES = 3, 9
CROSS_ENTROPY_SHARE = 0.5
WEIGHT_EXPONENT, WEIGHT_LIMITS = 0.5, (0.2, 5.0)


def decide_slices(spacing_mm: float, slices: float) -> tuple[int, Decision]:
    """Take an odd number of slices that shows 15 mm, within 3 to 9 and the image.

    Args:
        spacing_mm: Between slices.
        slices: Median number of slices.
    """
    wanted = round(CONTEXT_MM / spacing_mm)
    odd = wanted + 1 - wanted % 2
    within = max(FEWEST_SLICES, int(slices) - 1 + int(slices) % 2)
    chosen = max(FEWEST_SLICES, min(odd, MOST_SLICES, within))
    decision = Decision(
        rule="context",
        subject=f"configurations.{NAME}.network.slices",
        value=str(chosen),
        because=f"{CONTEXT_MM:g} mm at {spacing_mm:.3g} mm between slices are {wanted}; odd, "
        f"within {FEWEST_SLICES} to {MOST_SLICES} and the {slices:g} slices of the median image",
    )
    return chosen, decision


def decide_context_sizes(request: Request) -> Sizes:
    """Decide slab, batch and network from the full-resolution 3D request.

    The rules in plane are those of 2D; the slices count in the memory.
    """
    slices, decision = decide_slices(request.spacing[0], request.median_shape[0])
    plane = replace(request, spacing=request.spacing[1:], median_shape=request.median_shape[1:])
    sizes = decide_sizes(plane, context_family(slices), name=NAME)
    return replace(sizes, decisions=(decision, *sizes.decisions))


def decide_context_loss(
    fingerprint: Fingerprint, *, regions: bool = False
) -> tuple[Loss, Decision]:
    """Half weighted cross-entropy, half Dice over the batch (CN114723669A names the mix).

    Regions overlap: their cross-entropy is binary and has no class weights.
    """
    dice = DiceTerm(weight=1 - CROSS_ENTROPY_SHARE, batch=True)
    if regions:
        value = Loss(terms=(dice, BinaryCrossEntropyTerm(weight=CROSS_ENTROPY_SHARE)))
        return value, Decision(
            rule="loss",
            subject=f"configurations.{NAME}.loss",
            value="0.5 dice over the batch + 0.5 binary_cross_entropy",
            because=f"{REGIONS_REASON}a slab shows little foreground, so the Dice is pooled",
        )
    weights = class_weights(fingerprint)
    loss = Loss(
        terms=(
            dice,
            CrossEntropyTerm(weight=CROSS_ENTROPY_SHARE, class_weights=weights),
        )
    )
    shown = "unweighted" if weights is None else ", ".join(f"{w:.3g}" for w in weights)
    decision = Decision(
        rule="loss",
        subject=f"configurations.{NAME}.loss",
        value=f"0.5 dice over the batch + 0.5 cross_entropy, class weights {shown}",
        because="a slab shows little foreground: rare classes weigh more, by the root of their "
        f"rarity, within {WEIGHT_LIMITS[0]:g} to {WEIGHT_LIMITS[1]:g}",
        alternatives=("cross_entropy without weights",),
    )
    return loss, decision


def class_weights(fingerprint: Fingerprint) -> tuple[float, ...] | None:
    """Return `(median frequency / frequency)^½`, clipped, background first; None if unknown."""
    counts = np.array(class_voxels(fingerprint))
    if len(counts) < 2 or not (counts > 0).all():
        return None
    weights = (np.median(counts) / counts) ** WEIGHT_EXPONENT
    return tuple(float(f"{w:.3g}") for w in weights.clip(*WEIGHT_LIMITS))


def decide_context_augmentation(
    patch: Sequence[int], mirror_axes: tuple[int, ...]
) -> tuple[Augmentation, Decision]:
    """Transform a slab in the plane only, all slices alike."""
    ratio = max(patch[1:]) / min(patch[1:])
    degrees = DEGREES_ELONGATED if ratio > ELONGATED_2D else DEGREES_PLANE
    value = Augmentation(dummy_2d=True, rotation_degrees=degrees, mirror_axes=mirror_axes)
    decision = Decision(
        rule="augmentation",
        subject=f"configurations.{NAME}.augmentation",
        value=f"rotation ±{degrees:g}° in the plane of the slices, mirroring of axes "
        f"{', '.join(map(str, mirror_axes)) or 'none'}",
        because="slices are far apart: they turn together, and the slab may be turned round; "
        f"longest over shortest axis in plane {ratio:.2g} (limit {ELONGATED_2D:g})",
    )
    return value, decision
