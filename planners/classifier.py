"""How a classifier is fitted: which features a model may see, which models compete, how surely."""

from __future__ import annotations

from selfseg.records.classification import (
    Candidate,
    ClassificationFacts,
    FeatureSelection,
    ForestCandidate,
    LogisticCandidate,
    SVMCandidate,
    Uncertainty,
)
from selfseg.records.plan import Decision

MOST_CORRELATION = 0.9
LEAST_AGREEMENT = 0.75
JITTERS, SHIFT_VOXELS, SMOOTHNESS_VOXELS = 5, 0.75, 2.0
TREES, LEAST_IN_LEAF = 500, 3  # of the forest that ranks features, and of the one that classifies
GROUPS_PER_FEATURE, PUBLISHED_EACH = 5, 10  # the latter for models without a penalty
MOST_COMPONENTS, GROUPS_PER_COMPONENT = 10, 4
STRONG, USUAL = 0.05, 1.0
INNER_FOLDS = 5


def decide_selection(
    facts: ClassificationFacts,
) -> tuple[FeatureSelection, tuple[Decision, ...]]:
    """Return which features a model may see; numbers are counted anew in every training part."""
    chosen = FeatureSelection(
        most_correlation=MOST_CORRELATION,
        least_agreement=LEAST_AGREEMENT,
        jitters=JITTERS,
        shift_voxels=SHIFT_VOXELS,
        smoothness_voxels=SMOOTHNESS_VOXELS,
        trees=TREES,
        least_in_leaf=LEAST_IN_LEAF,
        groups_per_feature=GROUPS_PER_FEATURE,
        most_components=MOST_COMPONENTS,
        groups_per_component=GROUPS_PER_COMPONENT,
    )
    reasons = {
        "most_correlation": "of two features that repeat each other neither looks important; "
        f"{MOST_CORRELATION:g} of the ranks is usual in radiomics, and not measured here",
        "least_agreement": f"ICC(2,1) from {LEAST_AGREEMENT:g} on is called good (Koo & Li, 2016)",
        "jitters": f"with the mask itself, eroded and dilated {JITTERS + 3} readings of every "
        "region; each costs as much time as the features, so there are no more",
        "shift_voxels": "readers differ by about a voxel; our own choice, not measured on readers",
        "smoothness_voxels": "readers differ alike in neighboring places of a contour; our own "
        "choice, not measured on readers",
        "trees": "importances of more trees hardly differ between seeds, and more do no harm "
        "(Breiman, 2001)",
        "least_in_leaf": "a leaf of one region would be its label; not measured",
        "groups_per_feature": f"{facts.groups} patients: {_most(facts, GROUPS_PER_FEATURE)} "
        f"features at most. {PUBLISHED_EACH} patients of the rarer class for each (Peduzzi et al., "
        f"1996) would leave {max(1, facts.rarer_groups // PUBLISHED_EACH)}, but models here are "
        "penalized",
        "most_components": "further components of deep features are mostly noise; not measured",
        "groups_per_component": f"{facts.groups} patients: "
        f"{min(MOST_COMPONENTS, _most(facts, GROUPS_PER_COMPONENT))} components at most; they are "
        "uncorrelated, and those that do not help are left out later: so more than features",
    }
    return chosen, tuple(
        _decision("selection", f"selection.{name}", f"{getattr(chosen, name):g}", because)
        for name, because in reasons.items()
    )


def decide_candidates(
    facts: ClassificationFacts,
) -> tuple[tuple[Candidate, ...], tuple[Decision, ...]]:
    """Return the models that compete, with their strengths."""
    candidates: tuple[Candidate, ...] = (
        LogisticCandidate(c=STRONG),
        LogisticCandidate(c=USUAL),
        SVMCandidate(c=STRONG),
        ForestCandidate(trees=TREES, least_in_leaf=LEAST_IN_LEAF),
    )
    which = Decision(
        rule="classification.models",
        subject="candidates",
        value="logistic regression, linear SVM, random forest",
        because=f"{facts.regions} regions: shallow models of few features; "
        "the inner cross-validation of every fold takes one",
        alternatives=("a network of its own, with 500 patients or more",),
    )
    penalty = (
        f"scikit-learn's usual penalty (c = {USUAL:g}) and one {USUAL / STRONG:.0f} times as "
        "strong, which few patients may need; with more candidates the best of them is more often "
        "so by chance"
    )
    return candidates, (
        which,
        _decision("models", "candidates.logistic", f"c = {STRONG:g} and {USUAL:g}", penalty),
        _decision("models", "candidates.svm", f"c = {STRONG:g}", "the strong penalty alone: with "
                  "the usual one it is much like the logistic regression"),
        _decision("models", "candidates.forest", f"{TREES} trees, leaves of {LEAST_IN_LEAF} or "
                  "more", "as the forest that ranks the features"),
    )  # fmt: skip


def decide_inner_folds(facts: ClassificationFacts) -> tuple[int, Decision]:
    """Return how many folds choose the model, calibrate it and set its threshold."""
    return INNER_FOLDS, _decision(
        "folds",
        "inner_folds",
        str(INNER_FOLDS),
        "usual; fewer where a training part has fewer patients of the rarer class (of "
        f"{facts.rarer_groups}). Each ranks all features anew, in every outer fold",
    )


def decide_uncertainty() -> tuple[Uncertainty, tuple[Decision, ...]]:
    """Return how sure scores are said to be."""
    chosen = Uncertainty()  # as where a file of probabilities is judged: so they compare
    tail = round(chosen.replicates * (1 - chosen.confidence) / 2)
    return chosen, (
        _decision("uncertainty", "uncertainty.replicates", str(chosen.replicates),
                  f"{tail} drawn values lie beyond either end of the interval: enough for two "
                  "digits, in a second"),
        _decision("uncertainty", "uncertainty.confidence", f"{chosen.confidence:g}", "usual"),
        _decision("uncertainty", "uncertainty.permutations", str(chosen.permutations),
                  f"p-values down to {1 / (1 + chosen.permutations):.1g}"),
    )  # fmt: skip


def _most(facts: ClassificationFacts, each: int) -> int:
    return max(1, facts.groups // each)


def _decision(rule: str, subject: str, value: str, because: str) -> Decision:
    return Decision(rule=f"classification.{rule}", subject=subject, value=value, because=because)
