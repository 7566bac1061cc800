"""A race: nominated ideas against the plain plan on equal folds, and what was found."""

from __future__ import annotations

from typing import ClassVar, Literal

from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Splits
from selfseg.records.estimate import Estimate
from selfseg.records.ideas import Idea, IdeaTrial
from selfseg.records.loss import Loss
from selfseg.records.metrics import CaseScores
from selfseg.records.plan import Configuration, Decision
from selfseg.records.serial import GrownRecord, Record

PLAIN = "plain"  # the arm without any idea
RaceMetric = Literal["dice", "nsd", "cldice", "betti0"]


class RaceRules(Record):
    """The numbers of a race that are choices; a planner's.

    Attributes:
        most_ideas: That are raced at once; the first ones of the plan.
        fewest_folds: Without so many nothing is accepted.
        confidence: Of all intervals.
        fold_level: Folds are the observations, not patients, where their means differ more than
            the cases explain: where the F test has a smaller p.
    """

    most_ideas: int
    fewest_folds: int
    confidence: float
    fold_level: float


class Arm(Record):
    """What is trained on every fold: the plain configuration with some ideas.

    `step_s` is the measured time of a training step; None where no time limit asks for it.
    """

    ideas: tuple[str, ...] = ()
    step_s: float | None = None

    @property
    def name(self) -> str:
        """`plain`, and its ideas: `plain+skeleton`."""
        return "+".join((PLAIN, *self.ideas))


class RaceLength(Record):
    """How long every training is, the same in all arms.

    `further_arms` is how many arms with several ideas may follow, and have their time.
    """

    epochs: int
    steps_per_epoch: int
    further_arms: int
    decision: Decision

    @property
    def steps(self) -> int:
        """Steps of each training."""
        return self.epochs * self.steps_per_epoch


class RaceEvidence(Record):
    """What the decision on an idea is made from.

    Attributes:
        metrics: Whose mean is judged.
        gain: Mean over the cases of the paired gain, with its interval; see `RaceGain`.
        worst_change: Smallest mean change of any label's Dice.
        folds, cases, cases_better: Of the held-out cases that have any of the labels.
        by_fold: Whether the interval is one over folds, because they differ.
        is_transfer: Whether the idea brings something from other data.
    """

    metrics: tuple[RaceMetric, ...]
    gain: Estimate
    worst_change: float
    folds: int
    cases: int
    cases_better: int
    by_fold: bool
    is_transfer: bool = False


class RacedCase(Record):
    """A held-out case, its patient, and the fold that held it out."""

    case: str
    group: str
    fold: str


class ArmResult(Record):
    """Scores of an arm on the held-out cases, in the order of the race's cases.

    `stopped` says why it could not be trained to its end; then it has no scores.
    """

    arm: str
    cases: tuple[CaseScores, ...]
    stopped: str = ""


class RaceTrial(Record):
    """An idea, the arms it was judged by, and the paired gain of each case (None: undefined).

    Without gains the arms could not be compared.
    """

    idea: str
    arm: str
    against: str
    gains: tuple[float | None, ...]
    trial: IdeaTrial


class RaceBasis(GrownRecord):
    """All that a race depends on: the same basis goes on with a race, another begins one.

    Attributes:
        configuration: As planned, without what the ideas bring.
        ideas: In the plan's order, without their trials.
        folds: Numbers of those that are raced.
        splits, files: The folds, and a digest of the files of all cases, auxiliary ones too.
        auxiliary: How a second data set takes part, in some arm or in all.
        starts: Digests of the weights that arms start from.
        previous: In a cascade, a digest of the previous stage's weights.
        seed, total_s: Of all trainings; time limit.
    """

    configuration: Configuration
    ideas: tuple[Idea, ...]
    folds: tuple[str, ...]
    splits: Splits
    files: str
    previous: str = ""
    seed: int
    total_s: float | None
    auxiliary: Auxiliary | None = None
    starts: tuple[str, ...] = ()

    later: ClassVar[frozenset[str]] = frozenset({"auxiliary", "starts"})


class RaceRecord(Record):
    """race.json: a race from its schedule to its outcome.

    Attributes:
        basis: What is raced on what.
        length: Of every training.
        arms: Those of all single ideas; then those that followed.
        cases: Held-out cases.
        results, trials: Of all arms and ideas; empty until the race is finished.
        accepted: Ideas that won, the best first.
        loss: Of the configuration with them.
    """

    schema_version: Literal[1] = 1
    dataset: str
    basis: RaceBasis
    length: RaceLength
    arms: tuple[Arm, ...]
    cases: tuple[RacedCase, ...]
    results: tuple[ArmResult, ...] = ()
    trials: tuple[RaceTrial, ...] = ()
    accepted: tuple[str, ...] = ()
    loss: Loss
    finished: bool = False
