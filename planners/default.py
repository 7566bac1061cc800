"""The default planner: calls the rules in order and collects values and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import (
    Budget,
    Configuration,
    ConfigurationName,
    Decision,
    Plan,
)
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.selection import CandidateScore, Estimate, SelectionRules

from .families import Family, choose_family
from .low_resolution import decide_low_resolution
from .memory import estimate_gib
from .normalization import decide_normalization
from .patch import Request, Sizes, decide_sizes
from .resampling import decide_resampling
from .selection import accept_step, choose_candidate, selection_rules
from .spacing import Grid, decide_grid
from .splits import decide_splits
from .training import (
    decide_augmentation,
    decide_inference,
    decide_loss,
    decide_optimization,
)


class DefaultPlanner:
    """nnU-Net's rules with visible amendments; the rules stand one a file in planners/."""

    name = "default"
    version = "1"

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: Budget) -> Plan:
        """Decide everything about a dataset."""
        grid, decisions = decide_grid(fingerprint)
        normalization, because = decide_normalization(dataset.channels, fingerprint)
        family, family_decision = choose_family(budget.device, budget.memory_gib)
        resampling, resampling_decision = decide_resampling()
        decisions = (*decisions, *because, resampling_decision, family_decision)
        common = Preprocessing(
            axes=grid.axes,
            spacing_mm=grid.spacing_mm,
            normalization=normalization,
            resampling=resampling,
        )
        configurations: list[Configuration] = []
        proposals = _proposals(dataset, grid, budget, family)
        has_coarser = any(proposal[0] == "3d_lowres" for proposal in proposals)
        for proposal in proposals:
            configuration, more = _configuration(proposal, common, budget, has_coarser=has_coarser)
            configurations.append(configuration)
            decisions = (*decisions, *proposal[3], *more)
        return Plan(
            planner=self.name,
            planner_version=self.version,
            dataset=dataset.name,
            channels=dataset.channels,
            labels=dataset.labels,
            budget=budget,
            configurations=tuple(configurations),
            decisions=(*decisions, _left_out_3d(grid)) if grid.median_shape[0] == 1 else decisions,
        )

    def split(self, dataset: Dataset, folds: int = 5) -> Splits:
        """Decide the folds of a dataset."""
        return decide_splits(dataset.cases, folds)

    def selection_rules(self) -> SelectionRules:
        """Decide what a selection tries."""
        return selection_rules()

    def choose_candidate(self, candidates: Sequence[CandidateScore]) -> Decision:
        """Decide which configuration or ensemble is taken."""
        return choose_candidate(candidates)

    def accept_step(
        self, gain: Estimate, worst_change: float, cases_better: int, cases_worse: int
    ) -> Decision:
        """Decide whether a post-processing step is taken."""
        return accept_step(gain, worst_change, cases_better, cases_worse)


Proposal = tuple[ConfigurationName, Request, Sizes, tuple[Decision, ...]]


def _proposals(
    dataset: Dataset, grid: Grid, budget: Budget, family: Family
) -> tuple[Proposal, ...]:
    """Return 2d, and for volumes 3d_fullres and perhaps 3d_lowres, with sizes and reasons."""
    voxels = prod(grid.median_shape) * len(dataset.cases)
    request = Request(
        spacing=grid.spacing_mm,
        median_shape=grid.median_shape,
        dataset_voxels=voxels,
        classes=len(dataset.labels) + 1,
        channels=len(dataset.channels),
        memory_gb=budget.memory_gib,
    )
    plane = Request(
        spacing=grid.spacing_mm[1:],
        median_shape=grid.median_shape[1:],
        dataset_voxels=voxels,
        classes=request.classes,
        channels=request.channels,
        memory_gb=budget.memory_gib,
    )
    flat = decide_sizes(plane, family, name="2d")
    proposals: list[Proposal] = [("2d", plane, flat, flat.decisions)]
    if grid.median_shape[0] == 1:
        return tuple(proposals)
    full = decide_sizes(request, family, name="3d_fullres")
    proposals.append(("3d_fullres", request, full, full.decisions))
    low, decision = decide_low_resolution(request, full, family, len(dataset.cases))
    if low is None:
        proposals[-1] = ("3d_fullres", request, full, (*full.decisions, decision))
    else:
        proposals.append(("3d_lowres", low[0], low[1], (*low[1].decisions, decision)))
    return tuple(proposals)


def _configuration(
    proposal: Proposal, common: Preprocessing, budget: Budget, *, has_coarser: bool
) -> tuple[Configuration, tuple[Decision, ...]]:
    """Add to proposed sizes everything else that a configuration consists of."""
    name, request, sizes, _ = proposal
    loss, loss_decision = decide_loss(name, has_coarser=has_coarser)
    augmentation, augmentation_decision = decide_augmentation(name, sizes.patch)
    optimization, optimization_decision = decide_optimization(name)
    inference, inference_decision = decide_inference(name, augmentation.mirror_axes)
    first = None if name == "2d" else request.spacing[0]
    spacing = (first, request.spacing[-2], request.spacing[-1])
    median = (1.0, *request.median_shape)[-3:]
    memory = estimate_gib(
        sizes.network,
        sizes.patch,
        sizes.batch,
        channels=request.channels,
        classes=request.classes,
        device=budget.device,
    )
    configuration = Configuration(
        name=name,
        preprocessing=common.model_copy(update={"spacing_mm": spacing}),
        median_shape=(median[0], median[1], median[2]),
        patch=sizes.patch,
        batch=sizes.batch,
        memory_gib=float(f"{memory:.3g}"),
        network=sizes.network,
        loss=loss,
        augmentation=augmentation,
        optimization=optimization,
        inference=inference,
    )
    decisions = (loss_decision, augmentation_decision, optimization_decision, inference_decision)
    return configuration, (_own_slices(), *decisions) if name == "2d" else decisions


def _own_slices() -> Decision:
    return Decision(
        rule="spacing",
        subject="configurations.2d.preprocessing.spacing_mm",
        value="own spacing along the first axis",
        because="a 2D network never looks across slices, so every case keeps its own",
    )


def _left_out_3d(grid: Grid) -> Decision:
    return Decision(
        rule="configurations",
        subject="configurations.3d_fullres",
        value="left out",
        because=f"the median image has {grid.median_shape[0]:.0f} slice: there is no third axis",
    )
