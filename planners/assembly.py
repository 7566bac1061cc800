"""A whole configuration from its grid and sizes: what the rules add to them, and why."""

from __future__ import annotations

from dataclasses import replace

from selfseg.records.augmentation import Augmentation
from selfseg.records.crop import Crop
from selfseg.records.loss import Loss
from selfseg.records.names import ConfigurationName
from selfseg.records.network import Network
from selfseg.records.plan import Configuration, Decision

from .context import decide_context_augmentation, decide_context_loss
from .fine_stage import decide_crop, decide_variant
from .memory import both_estimates
from .patch import Sizes
from .proposals import Facts, Proposal
from .rarity import annotated_share
from .training import (
    decide_augmentation,
    decide_inference,
    decide_loss,
    decide_optimization,
)
from .transfer import decide_transfer
from .tubes import decide_tube_term
from .width import decide_batch, decide_width


def assemble(
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
    optimization, optimization_decision = decide_optimization(
        name, annotated_share=annotated_share(facts.fingerprint)
    )
    inference, inference_decision = decide_inference(name, augmentation.mirror_axes)
    transfer, transfer_decision = decide_transfer(name, len(facts.dataset.cases))
    network, crop, fine_decisions = _fine_stage(proposal, network, facts)
    cascade = len(facts.dataset.labels) if proposal.previous_stage else 0
    memory, memory_bfloat16 = both_estimates(
        network,
        sizes.patch,
        sizes.batch,
        channels=len(facts.dataset.channels) + cascade,
        classes=facts.dataset.targets.outputs,
        budget=facts.budget,
    )
    configuration = Configuration(
        name=name,
        preprocessing=facts.preprocessing.model_copy(update={"spacing_mm": proposal.spacing_mm}),
        median_shape=proposal.median_shape,
        patch=sizes.patch,
        batch=sizes.batch,
        memory_gib=memory,
        memory_bfloat16_gib=memory_bfloat16,
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


def _own_slices() -> Decision:
    return Decision(
        rule="spacing",
        subject="configurations.2d.preprocessing.spacing_mm",
        value="own spacing along the first axis",
        because="a 2D network never looks across slices, so every case keeps its own",
    )
