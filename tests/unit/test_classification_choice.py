"""Ranks of features where a forest of so few rows tells the classes apart by none of them."""

from __future__ import annotations

import numpy as np
import pytest
from lesiontable import small_plan

from selfseg.classification.choice import prepare_features
from selfseg.classification.table import FeatureTable


@pytest.mark.parametrize(
    ("alike", "low"),
    [
        # Leaves take three rows: every split leaves one positive on both sides.
        pytest.param([0, 4, 2, 3, 1, 5], [1, 2, 0, 3, 4, 5], id="splits without gain"),
        pytest.param([0, 4, 2, 3, 1], [2, 3, 0, 1, 4], id="too few rows for a split"),
    ],
)
def test_what_separates_the_classes_alone_stands_in_for_a_forest_that_found_nothing(
    alike: list[int], low: list[int]
) -> None:
    """The first column has positives in the middle, the second has them low."""
    count = len(alike)
    table = FeatureTable(
        names=("alike", "low"),
        values=np.array([alike, low], dtype=np.float64).T,
        readings=np.zeros((count, 0, 2)),
        positives=np.array([row in (2, 3) for row in range(count)]),
        groups=np.array([f"patient {row}" for row in range(count)]),
    )
    selection = small_plan(trees=200).selection
    assert prepare_features(table, selection, seed=0).features == ("low",)
