"""Ideas that a plan nominates for a configuration, and what a race found of each."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from selfseg.records.estimate import Estimate
from selfseg.records.loss import LossTerm
from selfseg.records.names import ConfigurationName
from selfseg.records.serial import GrownRecord, Record
from selfseg.records.transfer import Start


class RaceGain(Record):
    """Paired gain of one metric over the held-out cases; positive is better.

    All metrics lie in [0, 1], 1 being best; `betti0` is 1 / (1 + error of the number of pieces).
    """

    metric: str
    gain: Estimate


class IdeaTrial(Record):
    """What a race found of an idea.

    Attributes:
        on_top_of: Ideas that were accepted before and part of both arms.
        folds, cases, steps: What was trained and compared: folds, held-out cases, steps each; none
            where nothing was compared.
        gains: The mean that was judged, `mean of …`, then that of each metric; none likewise.
        worst_change: Smallest mean change of any label's Dice; None likewise.
        accepted: Whether the idea became part of the plan.
        because: Why.
    """

    on_top_of: tuple[str, ...] = ()
    folds: tuple[str, ...]
    cases: int
    steps: int
    gains: tuple[RaceGain, ...]
    worst_change: float | None
    accepted: bool
    because: str


class Idea(GrownRecord):
    """A change of one configuration that may help; a race accepts or rejects it.

    Attributes:
        name: Of the idea, unique within the configuration; `+` joins several.
        configuration: Which it would change.
        terms: What joins the loss.
        replaces: Kinds of terms that leave it; it must have them all.
        start: Model that trainings start from, in place of the configuration's start.
        hidden_p: Chance with which a slab of a training sample is hidden, in place of the
            configuration's.
        borrows: Whether it is training on the plan's auxiliary data set as well.
        labels: Labels or regions that it is for, and judged on; empty means all.
        because: The evidence.
        trials: What races found, the last one last.
    """

    later: ClassVar[frozenset[str]] = frozenset({"start", "borrows", "hidden_p"})

    name: str = Field(pattern=r"^[^+]+$")
    configuration: ConfigurationName
    terms: tuple[LossTerm, ...] = ()
    replaces: tuple[str, ...] = ()
    start: Start | None = None
    borrows: bool = False
    hidden_p: float | None = Field(default=None, gt=0.0, le=1.0)
    labels: tuple[str, ...] = ()
    because: str
    trials: tuple[IdeaTrial, ...] = ()

    @property
    def is_transfer(self) -> bool:
        """Whether it brings what was learned, or is to be learned, from other data."""
        return self.start is not None or self.borrows

    @property
    def changes(self) -> tuple[str, ...]:
        """What it changes, in words: `− cross_entropy`, `+ 1 top_k`, `start at MODEL`."""
        taken = [f"− {kind}" for kind in self.replaces]
        added = [f"+ {term.weight:g} {term.kind}" for term in self.terms]
        begun = [f"start at {self.start.title}"] if self.start is not None else []
        hidden = [f"a part hidden in {self.hidden_p:.0%} of the samples"] if self.hidden_p else []
        borrowed = ["+ the auxiliary data set"] * self.borrows
        return (*taken, *added, *begun, *borrowed, *hidden)
