"""The learning rate as a function of progress, and the choice of the recipe."""

from __future__ import annotations

from math import cos, pi
from typing import assert_never

from selfseg.records.optimization import (
    Optimization,
    Poly,
    Recipe,
    Schedule,
    WarmupCosine,
    WarmupPoly,
)


def learning_rate_factor(schedule: Schedule, progress: float) -> float:
    """Return the factor on the base learning rate.

    Args:
        schedule: Which curve.
        progress: Share of the training that is over, in [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    match schedule:
        case Poly():
            return float((1 - progress) ** schedule.exponent)
        case WarmupCosine() | WarmupPoly():
            if progress < schedule.warmup:
                # Never zero: the first step would be lost.
                return max(progress / schedule.warmup, 0.01)
            falling = (progress - schedule.warmup) / (1 - schedule.warmup)
            if isinstance(schedule, WarmupPoly):
                return float((1 - falling) ** schedule.exponent)
            return 0.5 * (1 + cos(pi * falling))
        case _:
            assert_never(schedule)


def choose_recipe(optimization: Optimization, expected_steps: float) -> tuple[Recipe, str]:
    """Return the recipe for a run of so many steps, and the reason."""
    limit = optimization.short_below_steps
    if expected_steps < limit:
        return optimization.short_recipe, (
            f"short recipe: about {expected_steps:.0f} steps, below the plan's {limit}"
        )
    return optimization.recipe, (
        f"long recipe: about {expected_steps:.0f} steps, at least the plan's {limit}"
    )
