"""How a second data set takes part in training: whose samples, which parameters, what weight."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Dataset
from selfseg.records.ideas import Idea
from selfseg.records.network import DualChannel, JointStreams, ResidualUNet, UNet
from selfseg.records.plan import Configuration, Decision, Plan

MANY_CASES = 200  # with so many of one's own there is little to borrow
MAY_HURT = (
    "it may hurt: 60 generated cases beside 5 of hippocampus MR cost 0.9 points of Dice, which "
    "'selfseg race --ideas auxiliary' tells"
)


def borrow(plan: Plan, dataset: Dataset, auxiliary: Dataset) -> Plan:
    """Add a second data set to a plan, because the user asked for it.

    Values are those of methods 4.2, V2, with heads in common: a label that both data sets have is
    learned from both. A race may find that it does more harm than good.
    """
    value = Auxiliary(name=auxiliary.name)
    configurations = tuple(_with_streams(item) for item in plan.configurations)
    streams = [
        new.name for new, old in zip(configurations, plan.configurations, strict=True) if new != old
    ]
    decisions = (
        _decide_share(value, dataset, auxiliary),
        _decide_channels(dataset, auxiliary),
        _decide_labels(dataset, auxiliary),
    )
    return plan.model_copy(
        update={
            "auxiliary": value,
            "configurations": configurations,
            "nominated": (*_ideas(configurations, dataset, auxiliary), *plan.nominated),
            "decisions": (*plan.decisions, *decisions, *map(_decide_streams, streams)),
        }
    )


def _with_streams(item: Configuration) -> Configuration:
    if item.previous_stage is not None or not isinstance(item.network, UNet | ResidualUNet):
        return item
    network = DualChannel(backbone=item.network, variant=JointStreams())
    return item.model_copy(update={"network": network})


def _ideas(
    configurations: Sequence[Configuration], dataset: Dataset, auxiliary: Dataset
) -> tuple[Idea, ...]:
    """Return for each configuration that borrows the idea to do so."""
    return tuple(
        Idea(
            name="auxiliary",
            configuration=item.name,
            borrows=True,
            because=f"{len(dataset.cases)} cases, and {len(auxiliary.cases)} of {auxiliary.name} "
            "that show some of the same",
        )
        for item in configurations
        if item.previous_stage is None
    )


def _decide_share(value: Auxiliary, dataset: Dataset, auxiliary: Dataset) -> Decision:
    own, others = len(dataset.cases), len(auxiliary.cases)
    doubt = f"; with {MANY_CASES} cases of one's own it is rarely worth it" * (own >= MANY_CASES)
    return Decision(
        rule="auxiliary",
        subject="auxiliary",
        value=f"{value.name}: {value.share:.0%} of each batch, weight {value.first_weight:g} to "
        f"{value.last_weight:g}, none in the last {value.primary_only:.0%} of the run",
        because=f"asked for with --auxiliary, until a race rejects it; {own} cases and {others} "
        "auxiliary ones: what both have in common is learned from both, and the end belongs to the "
        f"primary ones; {MAY_HURT}{doubt}",
        alternatives=("without it",),
    )


def _decide_channels(dataset: Dataset, auxiliary: Dataset) -> Decision:
    pairs = zip(auxiliary.channels, dataset.channels, strict=True)
    others = [(a, b) for a, b in pairs if a.casefold() != b.casefold()]
    reason = "both data sets name their channels alike"
    if others:
        reason = "as many channels, of other names: that they show the same was not checked"
    return Decision(
        rule="auxiliary",
        subject="auxiliary.channels",
        value=", ".join(f"{a} as {b}" for a, b in others) or "in order",
        because=reason,
    )


def _decide_labels(dataset: Dataset, auxiliary: Dataset) -> Decision:
    own = [label.name for label in dataset.labels]
    theirs = [label.name for label in auxiliary.labels]
    here, there = dataset.targets, auxiliary.targets
    shared = [name for name in own if there.named(name)]
    missing = [name for name in own if not there.named(name)]
    surplus = [name for name in theirs if not here.named(name)]
    reason = f"{auxiliary.name} annotates {', '.join(shared)}"
    if missing:
        reason += f"; {', '.join(missing)} may hide in its background, and is counted there"
    if surplus:
        reason += f"; its {', '.join(surplus)} is background here"
    return Decision(
        rule="auxiliary",
        subject="auxiliary.labels",
        value="by name: " + ", ".join(shared),
        because=reason,
    )


def _decide_streams(name: str) -> Decision:
    return Decision(
        rule="auxiliary",
        subject=f"configurations.{name}.network.variant",
        value="joint_streams, common heads",
        because="norm parameters of its own take up how the intensities of the auxiliary data set "
        "differ; whether own heads are better was not measured",
        alternatives=("own_heads", "all parameters in common"),
    )
