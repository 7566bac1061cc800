"""Ideas that a fingerprint nominates for the loss, and what a race found of each."""

from __future__ import annotations

from selfseg.records.estimate import Estimate
from selfseg.records.loss import LossTerm
from selfseg.records.names import ConfigurationName
from selfseg.records.serial import Record


class RaceGain(Record):
    """Paired gain of one metric over the held-out cases; positive is better."""

    metric: str
    gain: Estimate


class IdeaTrial(Record):
    """What a race found of an idea.

    Attributes:
        on_top_of: Ideas that were accepted before and part of both arms.
        folds, cases, steps: What was trained and compared: folds, held-out cases, steps each.
        gains: By metric; the decision is on the first ones that the planner names.
        worst_change: Smallest mean change of any label's Dice.
        accepted: Whether the idea became part of the plan.
        because: Why.
    """

    on_top_of: tuple[str, ...] = ()
    folds: tuple[str, ...]
    cases: int
    steps: int
    gains: tuple[RaceGain, ...]
    worst_change: float
    accepted: bool
    because: str


class Idea(Record):
    """A change of one configuration's loss that the data suggest; a race accepts or rejects it.

    Attributes:
        name: Of the idea, unique within the configuration.
        configuration: Whose loss it would change.
        terms: What joins the loss.
        replaces: Kinds of terms that leave it.
        because: The evidence.
        trials: What races found, the last one last.
    """

    name: str
    configuration: ConfigurationName
    terms: tuple[LossTerm, ...]
    replaces: tuple[str, ...] = ()
    because: str
    trials: tuple[IdeaTrial, ...] = ()
