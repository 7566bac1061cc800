"""What a planner is told of a model to start from, and what it makes of that."""

from __future__ import annotations

from selfseg.records.plan import Configuration, Decision
from selfseg.records.serial import Record
from selfseg.records.transfer import StartModel


class SourceFacts(Record):
    """A trained model, as far as a plan may follow it.

    Attributes:
        model: Which it is.
        channels: Names of its input images.
        labels: Names of its labels or regions.
        configuration: What it was trained as.
    """

    model: StartModel
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    configuration: Configuration


class Adoption(Record):
    """A configuration that fits a model, with the decision behind every value that it takes.

    `refusals` are the reasons why there is none; then nothing else is there.
    """

    configuration: Configuration | None = None
    decisions: tuple[Decision, ...] = ()
    refusals: tuple[str, ...] = ()
