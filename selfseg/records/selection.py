"""What cross-validation chose: ensemble members, post-processing, and the scores behind them."""

from __future__ import annotations

from typing import Literal

from selfseg.records.crf import DenseCrf
from selfseg.records.estimate import Estimate
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Decision
from selfseg.records.postprocessing import Step
from selfseg.records.serial import Record

SelectionMetric = Literal["dice", "nsd"]


class Member(Record):
    """A configuration whose folds are averaged.

    `weights` has a digest of all that each fold predicts with: its own weights, in a cascade those
    of the stage before as well.
    """

    configuration: ConfigurationName
    folds: tuple[str, ...]
    weights: tuple[str, ...]


class CandidateScore(Record):
    """How one configuration or ensemble did on the held-out cases.

    Attributes:
        members: Its configurations.
        score: Mean over labels of the mean over cases.
        difference: Paired, to the candidate with the highest score; that one's is 0.
        cost: Relative effort of a case: seconds where all were measured, else voxels.
        labels: Mean over the cases by label; None where no case defines it.
        cases: Mean over the labels by case.
    """

    members: tuple[ConfigurationName, ...]
    score: Estimate
    difference: Estimate
    cost: float
    labels: dict[str, float | None]
    cases: dict[str, float | None]

    @property
    def name(self) -> str:
        """The members' names, joined."""
        return " + ".join(self.members)


class StepTrial(Record):
    """A post-processing step that was tried.

    Attributes:
        subject: Label or region; `foreground` for all of it.
        step: As tuned on all cases; None if none of the variants helped there.
        gain: Paired gain of the subject's score on folds that its variant was not tuned on.
        worst_change: Smallest mean change of any label on these folds.
        accepted: Whether it became part of the selection.
        because: Why.
    """

    subject: str
    kind: str
    step: Step | None
    gain: Estimate
    worst_change: float
    accepted: bool
    because: str


class CrfTrial(Record):
    """A dense CRF that was tried on the probabilities.

    Attributes:
        options: As tuned on all cases; None if no combination helped there.
        folds: As tuned on all folds but that one.
        gain: Paired gain of the score on folds that the options were not tuned on.
        worst_change: Smallest mean change of any label on these folds.
        accepted: Whether it became part of the selection.
        because: Why.
    """

    options: DenseCrf | None
    folds: dict[str, DenseCrf | None]
    gain: Estimate
    worst_change: float
    accepted: bool
    because: str


class SelectionRules(Record):
    """The numbers of a selection that are choices; a planner's.

    Attributes:
        sizes: Numbers of members that are tried together.
        confidence: Of all intervals.
        replicates, seed: Of the bootstrap.
        fewest_share: Configurations with fewer folds than this share of the most are left out.
        fewest_folds: Without so many no post-processing is tried: it is tuned on some and judged
            on others.
        volume_quantiles: Minimum volumes that are tried, as quantiles of the volumes of predicted
            components that are not the largest of their case.
    """

    sizes: tuple[int, ...]
    confidence: float
    replicates: int
    seed: int
    fewest_share: float
    fewest_folds: int
    volume_quantiles: tuple[float, ...]


class Selection(Record):
    """selection.json: what `predict` uses by default.

    Attributes:
        metric, tolerance_mm: What was compared; the tolerance is that of the surface Dice.
        folds: Folds whose held-out cases were compared.
        members: The chosen ensemble (often one member).
        crf: Refines the mean of their probabilities; None: nothing does.
        postprocessing: Steps in order, on label maps of these probabilities.
        score, score_postprocessed: Of the chosen members without and with CRF and steps.
        candidates: All that were compared, best first.
        crf_trial: What trying a CRF gave; None: none was tried.
        trials: All further post-processing that was tried.
        decisions, notes: Why; what a reader should know.
    """

    schema_version: Literal[1] = 1
    dataset: str
    metric: SelectionMetric
    tolerance_mm: float
    folds: tuple[str, ...]
    members: tuple[Member, ...]
    crf: DenseCrf | None = None
    postprocessing: tuple[Step, ...]
    score: Estimate
    score_postprocessed: Estimate
    candidates: tuple[CandidateScore, ...]
    crf_trial: CrfTrial | None = None
    trials: tuple[StepTrial, ...]
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()


class ValidationTiming(Record):
    """How long the held-out cases of a fold took to predict."""

    cases: int
    seconds: float
