"""What a planner may offer beside a plan: the rules of a race."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from selfseg import planning
from selfseg.records.ideas import Idea
from selfseg.records.optimization import Optimization
from selfseg.records.plan import Decision
from selfseg.records.race import Arm, RaceEvidence, RaceLength, RaceMetric, RaceRules, RaceTrial


@runtime_checkable
class Racer(Protocol):
    """The rules of a race."""

    def race_rules(self) -> RaceRules:
        """Decide how many ideas are raced, and how sure an interval is."""
        ...

    def race_metrics(self, idea: Idea) -> tuple[RaceMetric, ...]:
        """Decide by the mean of which metrics an idea is judged."""
        ...

    def race_length(
        self,
        arms: Sequence[Arm],
        held_out: Sequence[int],
        case_s: float,
        optimization: Optimization,
        remaining_s: float | None,
    ) -> RaceLength:
        """Decide how long every training is; `held_out` counts the held-out cases of each fold."""
        ...

    def accept_idea(self, evidence: RaceEvidence) -> Decision:
        """Decide whether an idea is `accepted` or `rejected`."""
        ...

    def rank_ideas(self, won: Sequence[RaceTrial]) -> tuple[RaceTrial, ...]:
        """Order the trials of ideas that were accepted alone, the best first.

        The first one is taken; the others are tried on top, in this order.
        """
        ...


@runtime_checkable
class Racing(Protocol):
    """A planner that has such rules."""

    def racer(self) -> Racer:
        """Return them."""
        ...


def find_racer(name: str = "default") -> Racer:
    """Return the race rules of a planner; the default planner's where it has none."""
    planner = planning.find_planner(name)
    if not isinstance(planner, Racing):
        planner = planning.find_planner("default")
    assert isinstance(planner, Racing)
    return planner.racer()
