"""How lesions are classified: features by what is measured, models by the number of patients."""

from __future__ import annotations

from selfseg.records.classification import (
    ClassificationFacts,
    ClassificationPlan,
    FeatureSelection,
    ForestCandidate,
    LogisticCandidate,
    SVMCandidate,
)
from selfseg.records.features import (
    ChannelFeatures,
    FurtherFamily,
    OwnScale,
    RadiomicsOptions,
    ZScoreScale,
)
from selfseg.records.plan import Decision

from .normalization import CT, NUCLEAR

USUAL_SPACING_MM, FINEST_SPACING_MM = 1.0, 0.5
FEWEST_VOXELS = 50  # of a small region: with fewer, texture is noise
CT_WIDTH_HU = 25.0
Z_WIDTH = 5.0  # of intensities with a standard deviation of 100
NUCLEAR_WIDTH = 0.5  # standardized uptake
LEAVE_ONE_OUT_BELOW = 30  # patients: with fewer, a fold of several would cost too much of them
OUTER_FOLDS, INNER_FOLDS = 10, 5
FURTHER: tuple[FurtherFamily, ...] = ("runs", "zones", "distance_zones", "tones", "dependence")
TREES, LEAST_IN_LEAF = 500, 3  # of the forest that ranks features, and of the one that classifies


def decide_classification(facts: ClassificationFacts) -> ClassificationPlan:
    """Return all choices for a classifier of regions."""
    channels, reading = _channels(facts.channels)
    spacing_mm, grid = _spacing(facts)
    further, families = _further(facts)
    outer, folds = _folds(facts)
    return ClassificationPlan(
        radiomics=RadiomicsOptions(spacing_mm=spacing_mm, channels=channels, further=further),
        selection=FeatureSelection(
            most_correlation=0.9,
            least_agreement=0.75,
            jitters=5,
            trees=TREES,
            least_in_leaf=LEAST_IN_LEAF,
            groups_per_feature=5,
            most_components=10,
            groups_per_component=4,
        ),
        candidates=(
            LogisticCandidate(c=0.05),
            LogisticCandidate(c=1.0),
            SVMCandidate(c=0.05),
            ForestCandidate(trees=TREES, least_in_leaf=LEAST_IN_LEAF),
        ),
        outer_folds=outer,
        inner_folds=INNER_FOLDS,
        decisions=(*reading, grid, families, folds, _models(facts)),
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
    few = facts.groups < LEAVE_ONE_OUT_BELOW
    count = facts.groups if few else min(OUTER_FOLDS, facts.rarer_groups)
    count = max(count, 2)
    return count, Decision(
        rule="classification.folds",
        subject="outer_folds",
        value=str(count),
        because=f"{facts.groups} patients, {facts.rarer_groups} of them with the rarer class; "
        + ("with so few one at a time is held out" if few else f"{OUTER_FOLDS} folds are usual"),
    )


def _models(facts: ClassificationFacts) -> Decision:
    return Decision(
        rule="classification.models",
        subject="candidates",
        value="logistic regression, linear SVM, random forest",
        because=f"{facts.regions} regions: shallow models of few features; "
        "the inner cross-validation of every fold takes one",
        alternatives=("a network of its own, with 500 patients or more",),
    )
