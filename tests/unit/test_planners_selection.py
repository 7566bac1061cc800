"""What is accepted after cross-validation: by how much, on how many cases."""

from __future__ import annotations

import pytest
from selfseg.planners.selection import accept_step

from selfseg.records.estimate import Estimate


def accepted(
    gain: tuple[float, float, float],
    *,
    worst: float = 0.0,
    cases: int = 40,
    better: int = 20,
    worse: int = 0,
) -> bool:
    value, lower, upper = gain
    decision = accept_step(
        Estimate(value=value, lower=lower, upper=upper),
        worst,
        cases=cases,
        cases_better=better,
        cases_worse=worse,
    )
    return str(decision.value) == "accepted"


def test_a_gain_whose_interval_lies_above_zero_is_accepted() -> None:
    assert accepted((0.02, 0.01, 0.03))
    assert accepted((0.02, 0.01, 0.03), worse=5)


@pytest.mark.parametrize(
    "gain",
    [(0.02, -0.01, 0.05), (0.0007, 0.0, 0.002), (-0.01, -0.02, -0.005)],
    ids=["may be chance", "two cases of forty: none in many draws", "a loss"],
)
def test_what_may_be_chance_is_rejected(gain: tuple[float, float, float]) -> None:
    assert not accepted(gain)


def test_a_label_that_loses_forbids_it() -> None:
    assert not accepted((0.02, 0.01, 0.03), worst=-0.001)


def test_few_cases_must_be_ten_and_mostly_gain() -> None:
    assert not accepted((0.02, 0.01, 0.03), cases=4, better=4)
    assert not accepted((0.02, 0.01, 0.03), cases=12, better=9)
    assert accepted((0.02, 0.01, 0.03), cases=12, better=10)
    assert accepted((0.02, 0.01, 0.03), cases=15, better=4)
