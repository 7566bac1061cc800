"""Grid and sizes of every configuration, from which all else of it follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from selfseg.records.dataset import Dataset
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Budget, Decision
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Triple

from .configurations import choose_configurations, gather_evidence, wants_slab
from .context import decide_context_sizes
from .families import Family
from .label_shapes import Shapes
from .low_resolution import decide_low_resolution
from .patch import Request, Sizes, decide_sizes
from .spacing import Grid


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


def propose(
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


def _renamed(decisions: tuple[Decision, ...], name: str) -> tuple[Decision, ...]:
    """Return decisions on 3d_fullres as those on a configuration of the same sizes."""
    return tuple(
        decision.model_copy(update={"subject": decision.subject.replace("3d_fullres", name)})
        for decision in decisions
    )


def _triple(values: tuple[float, ...]) -> Triple:
    return (values[0], values[1], values[2])
