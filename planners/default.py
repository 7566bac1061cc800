"""The default planner: calls the rules in order and collects values and reasons."""

from __future__ import annotations

from math import prod

from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import (
    Budget,
    Configuration,
    ConfigurationName,
    Decision,
    Inference,
    Plan,
)
from selfseg.records.preprocessing import Preprocessing

from .families import Family, choose_family
from .low_resolution import decide_low_resolution
from .memory import estimate_gib
from .normalization import decide_normalization
from .patch import Request, Sizes, decide_sizes
from .spacing import Grid, decide_grid
from .splits import decide_splits
from .training import decide_augmentation, decide_loss, decide_optimization


class DefaultPlanner:
    """nnU-Net's rules with visible amendments; the rules stand one a file in planners/."""

    name = "default"
    version = "1"

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: Budget) -> Plan:
        """Decide everything about a dataset."""
        grid, decisions = decide_grid(fingerprint)
        normalization, because = decide_normalization(dataset.channels, fingerprint)
        family, family_decision = choose_family(budget.device, budget.memory_gib)
        decisions = (*decisions, *because, family_decision)
        common = Preprocessing(
            axes=grid.axes, spacing_mm=grid.spacing_mm, normalization=normalization
        )
        configurations: list[Configuration] = []
        for name, request, sizes, reasons in _proposals(dataset, grid, budget, family):
            configuration, more = _configuration(name, request, sizes, common, budget)
            configurations.append(configuration)
            decisions = (*decisions, *reasons, *more)
        return Plan(
            planner=self.name,
            planner_version=self.version,
            dataset=dataset.name,
            channels=dataset.channels,
            labels=dataset.labels,
            budget=budget,
            configurations=tuple(_with_batch_dice(configurations)),
            decisions=(*decisions, _left_out_3d(grid)) if grid.median_shape[0] == 1 else decisions,
        )

    def split(self, dataset: Dataset, folds: int = 5) -> Splits:
        """Decide the folds of a dataset."""
        return decide_splits(dataset.cases, folds)


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
    name: ConfigurationName, request: Request, sizes: Sizes, common: Preprocessing, budget: Budget
) -> tuple[Configuration, tuple[Decision, ...]]:
    loss, loss_decision = decide_loss(name, batch_dice=name == "2d")
    augmentation, augmentation_decision = decide_augmentation(name, sizes.patch)
    optimization, optimization_decision = decide_optimization(name)
    first = None if name == "2d" else request.spacing[0]
    spacing = (first, request.spacing[-2], request.spacing[-1])
    median = (
        request.median_shape if len(request.median_shape) == 3 else (1.0, *request.median_shape)
    )
    configuration = Configuration(
        name=name,
        preprocessing=common.model_copy(update={"spacing_mm": spacing}),
        median_shape=(median[0], median[1], median[2]),
        patch=sizes.patch,
        batch=sizes.batch,
        memory_gib=round(
            estimate_gib(
                sizes.network,
                sizes.patch,
                sizes.batch,
                channels=request.channels,
                classes=request.classes,
                device=budget.device,
            ),
            2,
        ),
        network=sizes.network,
        loss=loss,
        augmentation=augmentation,
        optimization=optimization,
        inference=Inference(mirror_axes=augmentation.mirror_axes),
    )
    return configuration, (loss_decision, augmentation_decision, optimization_decision)


def _with_batch_dice(configurations: list[Configuration]) -> list[Configuration]:
    """Pool the Dice over the batch at full resolution where a coarser configuration exists."""
    if all(item.name != "3d_lowres" for item in configurations):
        return configurations
    loss, _ = decide_loss("3d_fullres", batch_dice=True)
    return [
        item.model_copy(update={"loss": loss}) if item.name == "3d_fullres" else item
        for item in configurations
    ]


def _left_out_3d(grid: Grid) -> Decision:
    return Decision(
        rule="configurations",
        subject="configurations.3d_fullres",
        value="left out",
        because=f"the median image has {grid.median_shape[0]:.0f} slice: there is no third axis",
    )
