"""The default planner: calls the rules in order and collects values and reasons."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.classification import ClassificationFacts, ClassificationPlan
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.estimate import Estimate
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.ideas import Idea
from selfseg.records.plan import Budget, Configuration, Decision, Plan
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.pretraining import MaskedReconstruction, Pretrained
from selfseg.records.run import Schedule, Speed, Training
from selfseg.records.selection import CandidateScore, SelectionRules
from selfseg.records.source import Adoption, SourceFacts, StartVerdict, TransferFacts
from selfseg.records.transfer import Start

from .adoption import adopt
from .assembly import assemble
from .auxiliary import borrow
from .classification import decide_classification
from .crf import decide_crf
from .families import choose_family
from .ideas import nominate
from .label_shapes import gather_shapes
from .memory import estimate_gib
from .mirroring import decide_mirroring
from .normalization import decide_normalization
from .pretraining import decide_pretraining, nominate_pretrained
from .proposals import Facts, propose
from .race import DefaultRacer
from .resampling import decide_resampling
from .schedule import decide_schedule, time_each
from .selection import accept_step, choose_candidate, selection_rules
from .shape_models import decide_shape_models
from .spacing import decide_grid
from .splits import decide_splits, label_presence
from .transfer import choose_probed, nominate_start
from .tubes import decide_tubes


class DefaultPlanner:
    """nnU-Net's rules with visible amendments; the rules stand one a file in planners/."""

    name = "default"
    version = "2"

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: Budget) -> Plan:
        """Decide everything about a dataset."""
        grid, decisions = decide_grid(fingerprint)
        normalization, because = decide_normalization(dataset.channels, fingerprint)
        family, family_decision = choose_family(budget.device, budget.memory_gib)
        resampling, resampling_decision = decide_resampling()
        names = (*dataset.targets.names, *(label.name for label in dataset.labels))
        mirror_axes, mirroring = decide_mirroring(tuple(dict.fromkeys(names)), grid.axes)
        common = Preprocessing(
            axes=grid.axes,
            spacing_mm=grid.spacing_mm,
            normalization=normalization,
            resampling=resampling,
        )
        shapes = gather_shapes(dataset, fingerprint)
        tubular, tube_decisions = decide_tubes(shapes)
        facts = Facts(dataset, fingerprint, budget, grid, common, mirror_axes, shapes)
        proposals, proposed, chosen = propose(facts, family)
        made = [assemble(proposal, facts, proposals) for proposal in proposals]
        crf, crf_decision = decide_crf(
            fingerprint, normalization, proposed, regions=bool(dataset.regions)
        )
        configurations = tuple(configuration for configuration, _ in made)
        shape_models, score_decisions = decide_shape_models(shapes, configurations, budget.device)
        return Plan(
            planner=self.name,
            planner_version=self.version,
            dataset=dataset.name,
            channels=dataset.channels,
            labels=dataset.labels,
            regions=dataset.regions,
            ignore=dataset.ignore,
            budget=budget,
            configurations=configurations,
            proposed=proposed,
            crf=crf,
            tubular=tubular,
            shapes=shape_models,
            nominated=tuple(
                idea for configuration in configurations for idea in nominate(configuration, shapes)
            ),
            decisions=(
                *chosen,
                *decisions,
                *because,
                resampling_decision,
                family_decision,
                mirroring,
                crf_decision,
                *tube_decisions,
                *score_decisions,
                *(decision for _, reasons in made for decision in reasons),
            ),
        )

    def decide_classification(self, facts: ClassificationFacts) -> ClassificationPlan:
        """Decide features, models and folds of a classifier."""
        return decide_classification(facts)

    def adopt(self, plan: Plan, source: SourceFacts) -> Adoption:
        """Decide a configuration that fits a model to start from."""
        return adopt(plan, source)

    def pretraining(self, configuration: Configuration) -> tuple[MaskedReconstruction, Decision]:
        """Decide how a network is pretrained without labels."""
        return decide_pretraining(configuration)

    def nominate_pretrained(self, made: Pretrained, start: Start) -> Idea | None:
        """Decide whether a race should try to start from a pretrained network."""
        return nominate_pretrained(made, start)

    def probed_cases(self, dataset: Dataset) -> tuple[str, ...]:
        """Decide which cases a model is tried on."""
        return choose_probed(dataset)

    def nominate_start(
        self, source: SourceFacts, facts: TransferFacts, start: Start
    ) -> StartVerdict:
        """Decide whether a model is worth starting from."""
        return nominate_start(source, facts, start)

    def borrow(self, plan: Plan, dataset: Dataset, auxiliary: Dataset) -> Plan:
        """Decide how a second data set takes part in training."""
        return borrow(plan, dataset, auxiliary)

    def split(self, dataset: Dataset, fingerprint: Fingerprint, folds: int = 5) -> Splits:
        """Decide the folds of a dataset."""
        return decide_splits(dataset.cases, folds, label_presence(dataset, fingerprint))

    def schedule(
        self, speeds: Sequence[Speed], held_out: Sequence[int], remaining_s: float | None
    ) -> Schedule:
        """Decide what a run trains."""
        return decide_schedule(speeds, held_out, remaining_s)

    def time_each(
        self,
        trainings: Sequence[Training],
        held_out: Sequence[int],
        speeds: Sequence[Speed],
        remaining_s: float,
        *,
        used_s: float = 0.0,
    ) -> float:
        """Decide how long the trainings that are left may take."""
        return time_each(trainings, held_out, speeds, remaining_s, used_s=used_s)

    def selection_rules(self) -> SelectionRules:
        """Decide what a selection tries."""
        return selection_rules()

    def choose_candidate(self, candidates: Sequence[CandidateScore]) -> Decision:
        """Decide which configuration or ensemble is taken."""
        return choose_candidate(candidates)

    def accept_step(
        self,
        gain: Estimate,
        worst_change: float,
        *,
        cases: int,
        cases_better: int,
        cases_worse: int,
    ) -> Decision:
        """Decide whether a post-processing step is taken."""
        return accept_step(
            gain, worst_change, cases=cases, cases_better=cases_better, cases_worse=cases_worse
        )

    def racer(self) -> DefaultRacer:
        """Return the rules of a race."""
        return DefaultRacer()

    def memory_gib(
        self, plan: Plan, configuration: Configuration, *, bfloat16: bool = False
    ) -> float:
        """Estimate the memory of a training step, also of a configuration that a user edited."""
        return estimate_gib(
            configuration.network,
            configuration.patch,
            configuration.batch,
            channels=plan.input_channels(configuration),
            classes=plan.targets.outputs,
            device=plan.budget.device,
            bfloat16=bfloat16,
        )
