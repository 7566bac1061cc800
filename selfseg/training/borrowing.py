"""Training on a second data set as well: its batches, its loss, and how much that counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfseg.loading.batches import Batch, default_loader_workers, training_batches
from selfseg.losses.build import DeeplySupervisedSum, build_loss
from selfseg.losses.marginal import MarginalLoss, annotated_in
from selfseg.networks.dual_channel import AuxiliaryStream
from selfseg.networks.low_rank import call_with
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Targets
from selfseg.records.loss import SIMPLE, Loss
from selfseg.records.loss_terms import AdaptiveCrossEntropyTerm, CrossEntropyTerm
from selfseg.records.network import DualChannel, JointStreams
from selfseg.records.plan import Configuration
from selfseg.training.job import TrainingJob
from selfseg.training.state import TrainState

SEED_STEP = 7919  # its samples are drawn apart from those of the primary data set


def auxiliary_weight(options: Auxiliary, progress: float) -> float:
    """Return the weight of the auxiliary loss when a share of the run is over."""
    if options.is_over(progress):
        return 0.0
    falling = (1 + math.cos(math.pi * progress / (1 - options.primary_only))) / 2
    return options.last_weight + (options.first_weight - options.last_weight) * falling


@dataclass
class Borrowing:
    """The auxiliary part of a training.

    Attributes:
        options: How it takes part.
        loss: (outputs, label) → scalar.
        plain: The loss within, which follows the progress of the run.
        batches: One a step.
        indices: Label index of the primary data set for each of the auxiliary one (or its own).
    """

    options: Auxiliary
    loss: nn.Module
    plain: DeeplySupervisedSum
    batches: Iterator[Batch]
    indices: Tensor

    def next(self, progress: float) -> Callable[[TrainState], Tensor] | None:
        """Return what the next batch adds to the loss of a step; None once nothing does."""
        if self.options.is_over(progress):
            self.batches = iter(())  # ends its processes, and frees the cases held in memory
            return None
        weight = auxiliary_weight(self.options, progress)
        self.plain.progress = progress
        batch = next(self.batches)

        def term(state: TrainState) -> Tensor:
            image = batch.image.contiguous(memory_format=state.layout)
            first, *others = _outputs(state, image)
            outputs = (first[:, : self.plain.targets.outputs], *others)  # no predicted distances
            value: Tensor = self.loss(outputs, self.indices[batch.label])
            return weight * value

        return term


def start_borrowing(
    job: TrainingJob, configuration: Configuration, steps: range, progress: float
) -> Borrowing | None:
    """Return the auxiliary part of the given steps of a training; None without one.

    Args:
        job: The training.
        configuration: What it follows.
        steps: Those that are left.
        progress: Share of the run that is over; at its end no auxiliary case is opened any more.
    """
    data = job.auxiliary
    if data is None or data.options.is_over(progress):
        return None
    own = has_own_heads(configuration)
    targets = data.targets if own else shared_targets(job.plan.targets, data.targets)
    plain = build_loss(simple_terms(configuration.loss), targets)
    names = tuple(label.name for label in data.targets.labels)
    everything = (True,) * len(targets.names)
    annotated = everything if own else annotated_in(job.plan.targets, names)
    loss = MarginalLoss(plain, annotated, regions=bool(targets.regions))
    indices = own_indices(data.targets) if own else shared_indices(targets, data.targets)
    return Borrowing(
        options=data.options,
        loss=loss.to(job.device),
        plain=plain,
        batches=training_batches(
            configuration,
            data.data,
            data.cases,
            steps=steps,
            seed=job.seed + SEED_STEP,
            workers=default_loader_workers(job.device) if job.workers is None else job.workers,
            device=job.device,
            part=range(configuration.batch - job.borrowed_samples, configuration.batch),
        ),
        indices=torch.tensor(indices, device=job.device),
    )


def has_own_heads(configuration: Configuration) -> bool:
    """Tell whether the auxiliary data set has heads of its own."""
    network = configuration.network
    if not isinstance(network, DualChannel) or not isinstance(network.variant, JointStreams):
        return False
    return network.variant.own_heads


def shared_targets(primary: Targets, auxiliary: Targets) -> Targets:
    """Return the primary targets, with what the auxiliary data set leaves without annotation.

    Regions of which it annotates a part only have no voxels: where they are is not known.
    """
    names = tuple(label.name for label in auxiliary.labels)
    regions = tuple(
        region if known else region.model_copy(update={"values": ()})
        for region, known in zip(primary.regions, annotated_in(primary, names), strict=False)
    )
    unused = None if auxiliary.ignore is None else 1 + max(x.value for x in primary.labels)
    return primary.model_copy(update={"ignore": unused, "regions": regions})


def shared_indices(primary: Targets, auxiliary: Targets) -> list[int]:
    """Return the primary label index for each auxiliary one, by name; others are background."""
    found = [0, *(primary.named(label.name) for label in auxiliary.labels)]
    return found if primary.ignore_index is None else [*found, primary.ignore_index]


def own_indices(auxiliary: Targets) -> list[int]:
    """Return the label indices of a data set as they are."""
    return list(range(len(auxiliary.labels) + 1 + (auxiliary.ignore is not None)))


def simple_terms(loss: Loss) -> Loss:
    """Return a loss with those terms that can judge any data set, without weights of classes."""
    terms = tuple(
        term.model_copy(update={"class_weights": None})
        if isinstance(term, CrossEntropyTerm | AdaptiveCrossEntropyTerm)
        else term
        for term in loss.terms
        if term.kind in SIMPLE
    )
    return loss.model_copy(update={"terms": terms})


def _outputs(state: TrainState, image: Tensor) -> tuple[Tensor, ...]:
    """Run the network as it is for the auxiliary data set."""
    stream = getattr(state.network, "auxiliary_stream", None)
    if not isinstance(stream, AuxiliaryStream):
        return state.forward(image)
    return call_with(state.network, stream.weights(), image)
