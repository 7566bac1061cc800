"""Labels that consist of tubes: what is on by default for them, what a race is to try."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_terms import CbDiceTerm, ClDiceTerm, SegmentTerm, SkeletonRecallTerm
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
FLAT = 2
# Of the tube loss: with more weight, or from the start, it costs overlap of volumes (measured on
# vessels of the retina, see docs/benchmarks.md).
TUBE_WEIGHT, TUBE_START, TUBE_RAMP = 0.25, 0.4, 0.3


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
    name: ConfigurationName, loss: Loss, shapes: Shapes, spacing_mm: Sequence[float]
) -> tuple[Loss, tuple[Decision, ...]]:
    """Add the tube loss where labels are thin tubes and soft skeletons are cheap.

    Args:
        name: Configuration.
        loss: As planned so far.
        shapes: Of the labels.
        spacing_mm: Of the network's axes, two for planes.
    """
    finest = min(spacing_mm)
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, finest)]
    erosions = _erosions(thin, spacing_mm)
    if erosions is None:
        return loss, ()
    term = ClDiceTerm(
        labels=tuple(item.name for item in thin),
        iterations=erosions,
        weight=TUBE_WEIGHT,
        start=TUBE_START,
        ramp=TUBE_RAMP,
    )
    decision = Decision(
        rule="tube_loss",
        subject=f"configurations.{name}.loss.terms",
        value=f"+ {term.weight:g} {term.kind} of {', '.join(item.name for item in thin)}",
        because="; ".join(_tube_evidence(item, finest) for item in thin)
        + "; a volume term hardly notices a lost branch of one or two voxels; from "
        f"{TUBE_START:.0%} of the run on, growing for {TUBE_RAMP:.0%} of it, when volumes are "
        "about right: with weight 1, or from the start, it cost overlap on vessels of the retina",
        alternatives=("without it", "skeleton_recall", "segments"),
    )
    return loss.model_copy(update={"terms": (*loss.terms, term)}), (decision,)


def nominate_tube_terms(configuration: Configuration, shapes: Shapes) -> tuple[Idea, ...]:
    """Return the terms for thin tubes that are not on by default."""
    name, spacing_mm = configuration.name, network_spacing_mm(configuration)
    finest = min(spacing_mm)
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, finest)]
    if not thin:
        return ()
    because = "; ".join(_tube_evidence(item, finest) for item in thin)
    names = tuple(item.name for item in thin)
    found: list[tuple[str, LossTerm]] = [
        ("segments", SegmentTerm(labels=names)),
        ("skeleton_recall", SkeletonRecallTerm(labels=names)),
    ]
    erosions = _erosions(thin, spacing_mm)
    uneven = max(item.shape.median_r95_mm / item.shape.median_r50_mm for item in thin)
    if erosions is not None and uneven >= UNEVEN_RADII:
        found.append(("cb_dice", CbDiceTerm(labels=names, iterations=erosions)))
    return tuple(
        Idea(name=idea, configuration=name, terms=(term,), labels=names, because=because)
        for idea, term in found
    )


def _erosions(thin: Sequence[LabelShape], spacing_mm: Sequence[float]) -> int | None:
    """Return the erosions that the soft skeleton of the thickest tube takes; None if too many."""
    if not thin:
        return None
    radius = max(item.shape.median_r95_mm for item in thin) / min(spacing_mm)
    if len(spacing_mm) > FLAT and radius > THICK_3D_VOXELS:
        return None
    return min(ceil(radius) + 1, MOST_EROSIONS)


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
