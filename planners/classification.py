"""How lesions are classified: features by what is measured, folds by the number of patients."""

from __future__ import annotations

from selfseg.records.classification import ClassificationFacts, ClassificationPlan
from selfseg.records.features import (
    ChannelFeatures,
    FurtherFamily,
    OwnScale,
    RadiomicsOptions,
    ZScoreScale,
)
from selfseg.records.plan import Decision

from .classifier import (
    decide_candidates,
    decide_inner_folds,
    decide_selection,
    decide_uncertainty,
)
from .normalization import CT, NUCLEAR

USUAL_SPACING_MM, FINEST_SPACING_MM = 1.0, 0.5
FEWEST_VOXELS = 50  # of a small region: with fewer, texture is noise
CT_WIDTH_HU = 25.0
Z_WIDTH = 5.0  # of intensities with a standard deviation of 100
NUCLEAR_WIDTH = 0.5  # standardized uptake
OUTER_FOLDS = 10
FURTHER: tuple[FurtherFamily, ...] = ("runs", "zones", "distance_zones", "tones", "dependence")


def decide_classification(facts: ClassificationFacts) -> ClassificationPlan:
    """Return all choices for a classifier of regions."""
    channels, reading = _channels(facts.channels)
    spacing_mm, grid = _spacing(facts)
    further, families = _further(facts)
    selection, chosen = decide_selection(facts)
    candidates, models = decide_candidates(facts)
    outer, folds = _folds(facts)
    inner, within = decide_inner_folds(facts)
    uncertainty, sure = decide_uncertainty()
    return ClassificationPlan(
        radiomics=RadiomicsOptions(spacing_mm=spacing_mm, channels=channels, further=further),
        selection=selection,
        candidates=candidates,
        outer_folds=outer,
        inner_folds=inner,
        uncertainty=uncertainty,
        decisions=(*reading, grid, families, *chosen, *models, folds, within, *sure),
    )


def _channels(
    names: tuple[str, ...],
) -> tuple[tuple[ChannelFeatures, ...], tuple[Decision, ...]]:
    chosen, decisions = [], []
    for index, name in enumerate(names):
        key = name.strip().casefold()
        if CT.fullmatch(key):
            how = ChannelFeatures(scale=OwnScale(), bin_width=CT_WIDTH_HU)
            because = f"{name!r} is CT: Hounsfield units compare between scanners"
        elif key in NUCLEAR:
            how = ChannelFeatures(scale=OwnScale(), bin_width=NUCLEAR_WIDTH)
            because = f"{name!r} is a standardized uptake"
        else:
            how = ChannelFeatures(scale=ZScoreScale(), bin_width=Z_WIDTH)
            because = (
                f"units of {name!r} may differ from image to image"
                if name
                else (
                    "the channel has no name (no dataset.json beside the images), so "
                    "its units may differ from image to image"
                )
            )
        chosen.append(how)
        decisions.append(
            Decision(
                rule="classification.channels",
                subject=f"radiomics.channels[{index}]",
                value=f"{how.scale.kind}, levels of {how.bin_width:g}",
                because=because,
            )
        )
    return tuple(chosen), tuple(decisions)


def _spacing(facts: ClassificationFacts) -> tuple[float, Decision]:
    """Return 1 mm, finer where small regions would have too few voxels, but not much too fine."""
    needed = (facts.small_volume_mm3 / FEWEST_VOXELS) ** (1 / 3)
    spacing = min(USUAL_SPACING_MM, max(needed, FINEST_SPACING_MM, facts.finest_spacing_mm))
    if facts.finest_spacing_mm > USUAL_SPACING_MM:
        spacing = facts.finest_spacing_mm
    spacing = float(f"{spacing:.3g}")
    return spacing, Decision(
        rule="classification.spacing",
        subject="radiomics.spacing_mm",
        value=f"{spacing:g}",
        because=f"a tenth of the regions is below {facts.small_volume_mm3:.0f} mm³; the finest "
        f"voxel edge is {facts.finest_spacing_mm:.2g} mm (median); {USUAL_SPACING_MM:g} mm unless "
        f"such a region then had less than {FEWEST_VOXELS} voxels",
    )


def _further(facts: ClassificationFacts) -> tuple[tuple[FurtherFamily, ...], Decision]:
    """Return the families that mirp computes, where it is installed."""
    families = FURTHER if facts.mirp is not None else ()
    return families, Decision(
        rule="classification.further",
        subject="radiomics.further",
        value=", ".join(families) or "none",
        because=f"mirp {facts.mirp} is installed (extra 'radiomics'); predicting with these "
        "features needs it too"
        if families
        else "mirp, which computes further families of texture, is not installed (extra "
        "'radiomics')",
        alternatives=() if families else (f"with mirp: {', '.join(FURTHER)}",),
    )


def _folds(facts: ClassificationFacts) -> tuple[int, Decision]:
    """Return ten folds, or as many as there are patients with the rarer class.

    With more folds some could hold out one class only. Where patients have regions of both
    classes, or many regions, a fold still may: they stay whole, and shares get only as even as
    that allows.

    Never one patient at a time. A held-out positive would lower the share of positives in its
    training part, a negative raise it: probabilities that tell nothing then rank the classes the
    wrong way round (stratification bias: Parker et al., 2007, doi:10.1186/1471-2105-8-326).
    """
    count = max(2, min(OUTER_FOLDS, facts.rarer_groups))
    return count, Decision(
        rule="classification.folds",
        subject="outer_folds",
        value=str(count),
        because=f"{facts.groups} patients, {facts.rarer_groups} of them with the rarer class: "
        f"{OUTER_FOLDS} folds are usual; with more folds than patients of the rarer class, some "
        "would hold out one class only; classes are spread as evenly as whole patients allow",
        alternatives=(
            "one patient at a time: its class then moves the share of positives among the others, "
            "and the pooled AUC of noise falls far below 0.5",
        ),
    )
