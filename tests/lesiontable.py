"""Feature tables with known truth, and small choices for classifiers."""

from __future__ import annotations

import numpy as np

from selfseg.classification.table import FeatureTable
from selfseg.records.classification import (
    Candidate,
    ClassificationPlan,
    FeatureSelection,
    ForestCandidate,
    LogisticCandidate,
    SVMCandidate,
    Uncertainty,
)
from selfseg.records.features import ChannelFeatures, OwnScale, RadiomicsOptions

LOGISTIC = LogisticCandidate(c=0.5)
EVERY: tuple[Candidate, ...] = (
    LOGISTIC,
    SVMCandidate(c=0.1),
    ForestCandidate(trees=12, least_in_leaf=2),
)


def small_plan(
    *candidates: Candidate, outer: int = 4, inner: int = 3, trees: int = 15
) -> ClassificationPlan:
    """Return choices that are fitted in a moment."""
    return ClassificationPlan(
        radiomics=RadiomicsOptions(
            spacing_mm=1.0, channels=(ChannelFeatures(scale=OwnScale(), bin_width=25.0),)
        ),
        selection=FeatureSelection(
            most_correlation=0.9,
            least_agreement=0.75,
            jitters=1,
            trees=trees,
            least_in_leaf=3,
            groups_per_feature=5,
            most_components=3,
            groups_per_component=4,
        ),
        candidates=candidates or (LOGISTIC,),
        outer_folds=outer,
        inner_folds=inner,
        uncertainty=Uncertainty(replicates=200, permutations=200),
    )


def make_table(
    regions: int = 60,
    features: int = 12,
    *,
    signal: float = 0.0,
    deep: int = 0,
    seed: int = 0,
    per_patient: int = 1,
) -> FeatureTable:
    """Return noise, of which the first feature differs by `signal` deviations between classes."""
    rng = np.random.default_rng(seed)
    positives = np.arange(regions) % 2 == 0
    values = rng.normal(size=(regions, features + deep))
    values[:, 0] += signal * positives
    values[:, features:] += signal * positives[:, None]
    readings = values[:, None] + 0.05 * rng.normal(size=(regions, 2, features + deep))
    groups = np.array([f"patient {index // per_patient}" for index in range(regions)])
    names = [f"own_{i}" for i in range(features)] + [f"deep_{i}" for i in range(deep)]
    return FeatureTable(tuple(names), values, readings, positives, groups)
