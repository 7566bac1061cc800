"""How a limited time is divided over configurations and folds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selfseg.planners.schedule import FEWEST_STEPS, decide_schedule, time_each

from selfseg.records.names import ConfigurationName
from selfseg.records.run import Speed, Training

HELD_OUT = (8, 8, 8, 8, 8)


def speed(name: ConfigurationName, step_s: float, case_s: float = 0.2) -> Speed:
    stage: ConfigurationName | None = "3d_lowres" if name == "3d_cascade" else None
    return Speed(configuration=name, previous_stage=stage, step_s=step_s, case_s=case_s)


TWO = (speed("3d_fullres", 0.7), speed("2d", 1.0))


def pairs(trainings: tuple[Training, ...]) -> list[tuple[str, str]]:
    return [(t.configuration, t.fold) for t in trainings]


def test_without_a_limit_everything_is_trained_in_the_proposed_order() -> None:
    schedule = decide_schedule(TWO, HELD_OUT, None)
    folds = [str(fold) for fold in range(5)]
    assert pairs(schedule.trainings) == [(s.configuration, f) for s in TWO for f in folds]


@pytest.mark.parametrize(
    ("minutes", "configurations", "folds"),
    [(180, 2, 5), (60, 1, 5), (20, 1, 2), (12, 1, 1), (1, 1, 1)],
)
def test_short_of_time_configurations_go_first_then_folds(
    minutes: float, configurations: int, folds: int
) -> None:
    schedule = decide_schedule(TWO, HELD_OUT, 60 * minutes)
    assert len({t.configuration for t in schedule.trainings}) == configurations
    assert len({t.fold for t in schedule.trainings}) == folds
    assert schedule.trainings[0] == Training(configuration="3d_fullres", fold="0")
    assert schedule.decision.because


def test_a_cascade_is_not_trained_without_its_first_stage() -> None:
    speeds = (speed("3d_fullres", 1.0), speed("3d_cascade", 1.0))
    schedule = decide_schedule(speeds, HELD_OUT, None)
    assert {t.configuration for t in schedule.trainings} == {"3d_fullres"}
    both = decide_schedule((speeds[0], speed("3d_lowres", 1.0), speeds[1]), HELD_OUT, None)
    order = [t.configuration for t in both.trainings]
    assert order.index("3d_cascade") > max(i for i, n in enumerate(order) if n == "3d_lowres")


@pytest.mark.parametrize("limit_s", [None, 6000.0, 600.0])
def test_a_first_stage_comes_before_its_cascade_whatever_is_proposed(limit_s: float | None) -> None:
    speeds = (speed("3d_cascade", 1.0), speed("3d_lowres", 1.0))
    schedule = decide_schedule(speeds, HELD_OUT, limit_s)
    order = [t.configuration for t in schedule.trainings]
    assert order[0] == "3d_lowres"
    assert order == sorted(order, reverse=True)


@given(
    minutes=st.floats(0.5, 6000),
    step_s=st.floats(0.01, 10),
    case_s=st.floats(0.0, 5),
    held_out=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_all_that_is_planned_fits_the_time(
    minutes: float, step_s: float, case_s: float, held_out: list[int]
) -> None:
    speeds = (speed("3d_fullres", step_s, case_s), speed("2d", step_s / 2, case_s))
    schedule = decide_schedule(speeds, held_out, 60 * minutes)
    each_s = time_each(schedule.trainings, held_out, speeds, 60 * minutes)
    count = len(schedule.trainings)
    assert count >= 1
    assert each_s * count + case_s * sum(schedule.validation_cases) <= 60 * minutes + 1e-6
    if count > 1:
        assert each_s / step_s >= FEWEST_STEPS - 1e-6


@given(minutes=st.lists(st.floats(0.5, 3000), min_size=2, max_size=6))
def test_more_time_never_trains_less(minutes: list[float]) -> None:
    counts = [len(decide_schedule(TWO, HELD_OUT, 60 * m).trainings) for m in sorted(minutes)]
    assert all(a <= b for a, b in pairwise(counts))


def test_an_interrupted_training_is_given_the_same_total() -> None:
    left = decide_schedule(TWO, HELD_OUT, 3600 * 9).trainings[-3:]
    fresh = time_each(left, HELD_OUT, TWO, 3000.0)
    going_on = time_each(left, HELD_OUT, TWO, 3000.0 - 300.0, used_s=300.0)
    assert going_on == pytest.approx(fresh, rel=0.01)
