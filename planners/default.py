"""The default planner: calls the rules in order and collects values and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from selfseg.records.augmentation import Augmentation
from selfseg.records.classification import ClassificationFacts, ClassificationPlan
from selfseg.records.crop import Crop
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.estimate import Estimate
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss
from selfseg.records.names import ConfigurationName
from selfseg.records.network import Network
from selfseg.records.plan import Budget, Configuration, Decision, Plan
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.pretraining import MaskedReconstruction, Pretrained
from selfseg.records.run import Schedule, Speed, Training
from selfseg.records.selection import CandidateScore, SelectionRules
from selfseg.records.serial import Triple
from selfseg.records.source import Adoption, SourceFacts, StartVerdict, TransferFacts
from selfseg.records.transfer import Start

from .adoption import adopt
from .auxiliary import borrow
from .classification import decide_classification
from .configurations import choose_configurations, gather_evidence, wants_slab
from .context import decide_context_augmentation, decide_context_loss, decide_context_sizes
from .crf import decide_crf
from .families import Family, choose_family
from .fine_stage import decide_crop, decide_variant
from .ideas import nominate
from .label_shapes import Shapes, gather_shapes
from .low_resolution import decide_low_resolution
from .memory import estimate_gib
from .mirroring import decide_mirroring
from .normalization import decide_normalization
from .patch import Request, Sizes, decide_sizes
from .pretraining import decide_pretraining, nominate_pretrained
from .race import DefaultRacer
from .resampling import decide_resampling
from .schedule import decide_schedule, time_each
from .selection import accept_step, choose_candidate, selection_rules
from .shape_models import decide_shape_models
from .spacing import Grid, decide_grid
from .splits import decide_splits, label_presence
from .training import (
    decide_augmentation,
    decide_inference,
    decide_loss,
    decide_optimization,
)
from .transfer import choose_probed, decide_transfer, nominate_start
from .tubes import decide_tube_term, decide_tubes
from .width import decide_batch, decide_width


@dataclass(frozen=True)
class Proposal:
    """Grid and sizes of one configuration; all else follows from them.

    Attributes:
        name: Configuration.
        spacing_mm, median_shape: Working grid; no first spacing is every case's own.
        sizes: Patch, batch, network.
        previous_stage: See `Configuration`.
    """

    name: ConfigurationName
    spacing_mm: tuple[float | None, float, float]
    median_shape: Triple
    sizes: Sizes
    previous_stage: ConfigurationName | None = None


@dataclass(frozen=True)
class Facts:
    """What all configurations share."""

    dataset: Dataset
    fingerprint: Fingerprint
    budget: Budget
    grid: Grid
    preprocessing: Preprocessing
    mirror_axes: tuple[int, ...]
    shapes: Shapes


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
        proposals, proposed, chosen = _proposals(facts, family)
        made = [_configuration(proposal, facts, proposals) for proposal in proposals]
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

    def memory_gib(self, plan: Plan, configuration: Configuration) -> float:
        """Estimate the memory of a training step, also of a configuration that a user edited."""
        return estimate_gib(
            configuration.network,
            configuration.patch,
            configuration.batch,
            channels=plan.input_channels(configuration),
            classes=plan.targets.outputs,
            device=plan.budget.device,
        )


def _proposals(
    facts: Facts, family: Family
) -> tuple[list[Proposal], tuple[ConfigurationName, ...], tuple[Decision, ...]]:
    """Return the configurations, the names of those worth training, and why."""
    grid = facts.grid
    request = _request(facts)
    plane = replace(request, spacing=request.spacing[1:], median_shape=request.median_shape[1:])
    own_slices = (None, grid.spacing_mm[1], grid.spacing_mm[2])
    flat = decide_sizes(plane, family, name="2d")
    proposals = [Proposal("2d", own_slices, (1.0, *grid.median_shape[1:]), flat)]
    if grid.median_shape[0] == 1:
        evidence = gather_evidence(facts.fingerprint, grid, None, facts.budget)
        return proposals, *choose_configurations(evidence, has_low=False)
    full = decide_sizes(request, family, name="3d_fullres")
    evidence = gather_evidence(facts.fingerprint, grid, full.patch, facts.budget)
    if wants_slab(evidence):
        slab = decide_context_sizes(request)
        proposals.append(Proposal("2.5d", grid.spacing_mm, grid.median_shape, slab))
    proposals.append(Proposal("3d_fullres", grid.spacing_mm, grid.median_shape, full))
    low, low_decision = decide_low_resolution(request, full, family, len(facts.dataset.cases))
    if low is not None:
        coarse, sizes = low
        spacing, shape = _triple(coarse.spacing), _triple(coarse.median_shape)
        again = replace(full, decisions=_renamed(full.decisions, "3d_cascade"))
        proposals += [
            Proposal("3d_lowres", spacing, shape, sizes),
            Proposal("3d_cascade", grid.spacing_mm, grid.median_shape, again, "3d_lowres"),
        ]
    proposed, decisions = choose_configurations(evidence, has_low=low is not None)
    return proposals, proposed, (*decisions, low_decision)


def _request(facts: Facts) -> Request:
    return Request(
        spacing=facts.grid.spacing_mm,
        median_shape=facts.grid.median_shape,
        dataset_voxels=prod(facts.grid.median_shape) * len(facts.dataset.cases),
        classes=facts.dataset.targets.outputs,
        channels=len(facts.dataset.channels),
        memory_gb=facts.budget.memory_gib,
        device=facts.budget.device,
    )


def _configuration(
    proposal: Proposal, facts: Facts, proposals: list[Proposal]
) -> tuple[Configuration, tuple[Decision, ...]]:
    """Add to proposed sizes everything else that a configuration consists of."""
    name, sizes = proposal.name, _for_device(proposal, facts.budget.device)
    network, width_decision = decide_width(name, sizes.network, facts.budget.device)
    has_coarser = any(other.name == "3d_lowres" for other in proposals)
    loss, loss_decision = _loss(name, facts, has_coarser=has_coarser)
    axes_mm = tuple(
        value for value in proposal.spacing_mm[-len(sizes.patch) :] if value is not None
    )
    loss, tube_decisions = decide_tube_term(name, loss, facts.shapes, axes_mm)
    augmentation, augmentation_decision = _augmentation(name, sizes.patch, facts)
    optimization, optimization_decision = decide_optimization(name)
    inference, inference_decision = decide_inference(name, augmentation.mirror_axes)
    transfer, transfer_decision = decide_transfer(name, len(facts.dataset.cases))
    network, crop, fine_decisions = _fine_stage(proposal, network, facts)
    cascade = len(facts.dataset.labels) if proposal.previous_stage else 0
    memory = estimate_gib(
        network,
        sizes.patch,
        sizes.batch,
        channels=len(facts.dataset.channels) + cascade,
        classes=facts.dataset.targets.outputs,
        device=facts.budget.device,
    )
    configuration = Configuration(
        name=name,
        preprocessing=facts.preprocessing.model_copy(update={"spacing_mm": proposal.spacing_mm}),
        median_shape=proposal.median_shape,
        patch=sizes.patch,
        batch=sizes.batch,
        memory_gib=float(f"{memory:.3g}"),
        network=network,
        loss=loss,
        augmentation=augmentation,
        optimization=optimization,
        inference=inference,
        previous_stage=proposal.previous_stage,
        transfer=transfer,
        crop=crop,
    )
    decisions = (
        *sizes.decisions,
        width_decision,
        loss_decision,
        *tube_decisions,
        augmentation_decision,
        optimization_decision,
        inference_decision,
        transfer_decision,
        *fine_decisions,
    )
    return configuration, (_own_slices(), *decisions) if name == "2d" else decisions


def _fine_stage(
    proposal: Proposal, network: Network, facts: Facts
) -> tuple[Network, Crop | None, tuple[Decision, ...]]:
    """Return network and crop of a cascade; other configurations stay as they are."""
    if proposal.previous_stage is None:
        return network, None, ()
    regions = bool(facts.dataset.regions)
    crop, decision = decide_crop(facts.fingerprint, facts.grid, regions=regions)
    if crop is None:
        return network, None, (decision,)
    network, variant_decision = decide_variant(network)
    return network, crop, (decision, variant_decision)


def _for_device(proposal: Proposal, device: str) -> Sizes:
    """Return the sizes with the batch that the device has time for."""
    sizes = proposal.sizes
    batch, reasons = decide_batch(proposal.name, sizes.batch, sizes.patch, device)
    decisions = tuple(
        decision.model_copy(
            update={
                "value": str(batch),
                "because": "; ".join((decision.because, *reasons)),
                "alternatives": (str(sizes.batch),) if reasons else decision.alternatives,
            }
        )
        if decision.rule == "batch"
        else decision
        for decision in sizes.decisions
    )
    return replace(sizes, batch=batch, decisions=decisions)


def _loss(name: ConfigurationName, facts: Facts, *, has_coarser: bool) -> tuple[Loss, Decision]:
    regions = bool(facts.dataset.regions)
    if name == "2.5d":
        return decide_context_loss(facts.fingerprint, regions=regions)
    return decide_loss(name, has_coarser=has_coarser, regions=regions)


def _augmentation(
    name: ConfigurationName, patch: tuple[int, ...], facts: Facts
) -> tuple[Augmentation, Decision]:
    axes = facts.mirror_axes
    if name == "2d":  # its axes are the last two
        axes = tuple(axis - 1 for axis in axes if axis)
    if name == "2.5d":
        return decide_context_augmentation(patch, axes)
    return decide_augmentation(name, patch, axes)


def _renamed(decisions: tuple[Decision, ...], name: str) -> tuple[Decision, ...]:
    """Return decisions on 3d_fullres as those on a configuration of the same sizes."""
    return tuple(
        decision.model_copy(update={"subject": decision.subject.replace("3d_fullres", name)})
        for decision in decisions
    )


def _own_slices() -> Decision:
    return Decision(
        rule="spacing",
        subject="configurations.2d.preprocessing.spacing_mm",
        value="own spacing along the first axis",
        because="a 2D network never looks across slices, so every case keeps its own",
    )


def _triple(values: tuple[float, ...]) -> Triple:
    return (values[0], values[1], values[2])
