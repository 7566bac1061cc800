"""Labels that consist of tubes: what is on by default for them, what a race is to try."""

from __future__ import annotations

from math import ceil

from selfseg.records.ideas import Idea
from selfseg.records.loss import (
    CbDiceTerm,
    ClDiceTerm,
    Loss,
    LossTerm,
    SegmentTerm,
    SkeletonRecallTerm,
)
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Configuration, Decision

from .label_shapes import LabelShape, Shapes, network_spacing_mm
from .shapes import is_tubular

# Thin tubes lose branches to losses of volume; thick ones do not (Kirchhoff et al. 2024).
THIN_SHARE, THICK_VOXELS = 0.3, 6.0
# Where the thickest branches are so many times wider than most, thin ones hardly count.
UNEVEN_RADII = 2.0
# Soft skeletons in space cost as many erosions as the thickest tube has voxels of radius.
THICK_3D_VOXELS, MOST_EROSIONS = 4.0, 10


def decide_tubes(shapes: Shapes) -> tuple[tuple[str, ...], tuple[Decision, ...]]:
    """Return the labels that consist of tubes, and why; nothing is decided where none does."""
    decisions = tuple(
        Decision(
            rule="tubes",
            subject=f"tubular.{item.name}",
            value="tubes",
            because=f"{is_tubular(item.shape).because}; its parts are as real as the whole: no "
            "component is removed in post-processing",
            alternatives=("like any other label",),
        )
        for item in shapes.labels
        if item.name in shapes.tubular
    )
    return shapes.tubular, decisions


def decide_tube_term(
    name: ConfigurationName, loss: Loss, shapes: Shapes, spacing_mm: float
) -> tuple[Loss, tuple[Decision, ...]]:
    """Add the tube loss where labels are thin tubes.

    Args:
        name: Configuration.
        loss: As planned so far.
        shapes: Of the labels.
        spacing_mm: Of the finest axis of the working grid.
    """
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, spacing_mm)]
    if not thin:
        return loss, ()
    term = SkeletonRecallTerm(labels=tuple(item.name for item in thin))
    decision = Decision(
        rule="tube_loss",
        subject=f"configurations.{name}.loss.terms",
        value=f"+ {term.weight:g} {term.kind} of {', '.join(item.name for item in thin)}",
        because="; ".join(_tube_evidence(item, spacing_mm) for item in thin)
        + "; a volume term hardly notices a lost branch of one or two voxels",
        alternatives=("without it", "cl_dice", "segments"),
    )
    return loss.model_copy(update={"terms": (*loss.terms, term)}), (decision,)


def nominate_tube_terms(configuration: Configuration, shapes: Shapes) -> tuple[Idea, ...]:
    """Return the terms for thin tubes that are not on by default."""
    name, flat = configuration.name, len(configuration.patch) == 2
    finest = min(network_spacing_mm(configuration))
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, finest)]
    if not thin:
        return ()
    because = "; ".join(_tube_evidence(item, finest) for item in thin)
    names = tuple(item.name for item in thin)
    radius = max(item.shape.median_r95_mm for item in thin) / finest
    found: list[tuple[str, LossTerm]] = [("segments", SegmentTerm(labels=names))]
    if flat or radius <= THICK_3D_VOXELS:
        erosions = min(ceil(radius) + 1, MOST_EROSIONS)
        uneven = max(item.shape.median_r95_mm / item.shape.median_r50_mm for item in thin)
        if uneven >= UNEVEN_RADII:
            found.append(("cb_dice", CbDiceTerm(labels=names, iterations=erosions)))
        found.append(("cl_dice", ClDiceTerm(labels=names, iterations=erosions)))
    return tuple(
        Idea(name=idea, configuration=name, terms=(term,), labels=names, because=because)
        for idea, term in found
    )


def _thin_tubes(item: LabelShape, shapes: Shapes, spacing_mm: float) -> bool:
    radius = item.shape.median_r50_mm / spacing_mm
    thin = item.shape.median_thin_share >= THIN_SHARE
    return item.name in shapes.tubular and thin and radius <= THICK_VOXELS


def _tube_evidence(item: LabelShape, spacing_mm: float) -> str:
    return (
        f"{item.name} consists of tubes, {item.shape.median_thin_share:.0%} of their length at "
        f"most 3 voxels wide (asked: {THIN_SHARE:.0%}), median radius "
        f"{item.shape.median_r50_mm / spacing_mm:.2g} voxels (limit {THICK_VOXELS:g})"
    )
