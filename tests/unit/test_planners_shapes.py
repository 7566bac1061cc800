"""Verdicts on shapes: each condition counts, and the reason has its number."""

from __future__ import annotations

import pytest
from plannerfacts import ORGAN, VESSELS
from selfseg.planners.shapes import is_compact, is_tubular

PAIR = ORGAN.model_copy(update={"components_mode": 2, "median_largest_share": 0.53})


def test_vessels_organs_and_pairs_are_told_apart() -> None:
    rules = (is_tubular, is_compact)
    for shape, expected in ((VESSELS, rules[0]), (ORGAN, rules[1]), (PAIR, None)):
        assert [rule(shape).holds for rule in rules] == [rule is expected for rule in rules]


@pytest.mark.parametrize(
    ("field", "least"),
    [
        ("median_elongation", 10.0),
        ("median_tube_ratio", 0.4),
        ("median_branch_elongation", 4.0),
    ],
)
def test_tubes(field: str, least: float) -> None:
    assert is_tubular(VESSELS.model_copy(update={field: least})).holds
    verdict = is_tubular(VESSELS.model_copy(update={field: 0.99 * least}))
    assert not verdict.holds
    assert f"{0.99 * least:.3g}" in verdict.because
    assert f"{least:g}" in verdict.because
    assert ";" not in verdict.because  # what does hold is no reason


def test_tubes_have_no_more_volume_than_tubes() -> None:
    assert is_tubular(VESSELS.model_copy(update={"median_tube_ratio": 2.5})).holds
    assert not is_tubular(VESSELS.model_copy(update={"median_tube_ratio": 2.51})).holds


@pytest.mark.parametrize(
    ("field", "limit", "beyond"),
    [
        ("median_largest_share", 0.98, 0.97),
        ("share_of_cases", 0.95, 0.94),
        ("median_sphericity", 0.35, 0.34),
        ("aligned_dice", 0.6, 0.59),
        ("volume_cv", 0.6, 0.61),
        ("position_spread", 0.1, 0.11),
    ],
)
def test_compact(field: str, limit: float, beyond: float) -> None:
    assert is_compact(ORGAN.model_copy(update={field: limit})).holds
    verdict = is_compact(ORGAN.model_copy(update={field: beyond}))
    assert not verdict.holds
    assert (f"{beyond:.0%}" if field == "share_of_cases" else f"{beyond:g}") in verdict.because


def test_one_case_tells_nothing_of_spread() -> None:
    for field in ("aligned_dice", "volume_cv", "position_spread"):
        verdict = is_compact(ORGAN.model_copy(update={field: None}))
        assert not verdict.holds
        assert "fewer than two cases" in verdict.because


def test_a_verdict_that_holds_names_everything() -> None:
    because = is_compact(ORGAN).because
    for number in ("volume", "cases", "0.65", "0.75", "0.3", "0.05"):
        assert number in because
