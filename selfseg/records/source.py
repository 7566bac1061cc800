"""What a planner is told of a model to start from, and what it makes of that."""

from __future__ import annotations

from selfseg.records.ideas import Idea
from selfseg.records.plan import Configuration, Decision
from selfseg.records.serial import Record, Triple
from selfseg.records.transfer import StartModel


class SourceFacts(Record):
    """A trained model, as far as a plan may follow it.

    Attributes:
        model: Which it is.
        channels: Names of its input images.
        labels: Names of its labels or regions; none where it was pretrained without.
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


class LabelOverlap(Record):
    """Mean Dice of a label over the probed cases that have it or were given it."""

    name: str
    dice: float


class TransferFacts(Record):
    """What a model does with data that it was not trained on, before any training.

    Attributes:
        cases: Training cases that were probed.
        training_cases: How many there are in all.
        seen_cases: Of these, how many the model was trained on, or on another of their group; they
            are not probed.
        channels: Of the data. A model is tried only where each has just one counterpart among its
            own (`channel_order`).
        overlaps: Of labels that the model and the data both name; empty where there is none.
        intensity_distance: 1-Wasserstein distance of the voxels' values, normalized as the model
            does it, from those that it was trained on (mean of channels); None where these are not
            there any more.
        spacing_ratios: Median voxel size of the data over the model's, in its order of axes; 1
            where slices keep their own.
    """

    cases: tuple[str, ...]
    training_cases: int
    seen_cases: int = 0
    channels: tuple[str, ...]
    overlaps: tuple[LabelOverlap, ...] = ()
    intensity_distance: float | None = None
    spacing_ratios: Triple


class StartVerdict(Record):
    """Whether a model is worth starting from.

    Attributes:
        decision: `nominated: …`, `doubtful: …` or `refused: …`, and why.
        idea: To be tried in a race; None where it is refused.
        is_used: Whether trainings start from it before a race has tried it.
    """

    decision: Decision
    idea: Idea | None = None
    is_used: bool = False
