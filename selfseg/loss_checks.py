"""Whether the loss of a configuration can be computed: its terms, their labels and maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from selfseg.records.dataset import Targets
from selfseg.records.loss import FULL_RESOLUTION, Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    BinaryCrossEntropyTerm,
    CrossEntropyTerm,
    LabelTerm,
    ShapeCodeTerm,
    SignedDistanceTerm,
    SmoothnessTerm,
)
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    Network,
    ResidualUNet,
    TwoBranch,
    UNet,
    plain_part,
)
from selfseg.records.plan import Configuration


def loss_complaints(item: Configuration, targets: Targets) -> Iterator[str]:
    """Yield what is wrong with a configuration's loss, each with its place below `loss`."""
    yield from _kind_complaints(item.loss, targets)
    yield from _label_complaints(item.loss, targets)
    yield from _count_complaints(item, targets)
    yield from _output_complaints(item)
    yield from _head_complaints(item, targets)
    if len(item.patch) != 3 or item.context:
        for index, term in enumerate(item.loss.terms):
            if isinstance(term, ShapeCodeTerm):
                yield f"terms.{index}: shape_code needs a network of three axes"
    try:
        needed_maps(item.loss)
    except ValueError as error:
        yield f"terms: {error}"


def _kind_complaints(loss: Loss, targets: Targets) -> Iterator[str]:
    wrong = CrossEntropyTerm if targets.regions else BinaryCrossEntropyTerm
    for index, term in enumerate(loss.terms):
        if isinstance(term, wrong):
            yield (
                f"terms.{index}: {term.kind} is for "
                f"{'labels that exclude each other' if targets.regions else 'regions'}"
            )


def _label_complaints(loss: Loss, targets: Targets) -> Iterator[str]:
    for index, term in enumerate(loss.terms):
        if not isinstance(term, LabelTerm | ShapeCodeTerm) or term.labels is None:
            continue
        unknown = [name for name in term.labels if name not in targets.names]
        if unknown or len(set(term.labels)) < len(term.labels) or not term.labels:
            found = ", ".join(unknown or term.labels) or "none"
            yield f"terms.{index}.labels: {found}, must be some of {', '.join(targets.names)}"


def _count_complaints(item: Configuration, targets: Targets) -> Iterator[str]:
    """Yield weights of terms that are too few or too many for the classes or axes there are."""
    for index, term in enumerate(item.loss.terms):
        if isinstance(term, SmoothnessTerm) and len(term.axis_weights) != len(item.patch):
            yield (
                f"terms.{index}.axis_weights: {len(term.axis_weights)} given, must be "
                f"{len(item.patch)}: one an axis of the patch"
            )
        if not isinstance(term, CrossEntropyTerm | AdaptiveCrossEntropyTerm):
            continue
        classes = len(targets.labels) + 1  # of regions too: a voxel weighs by its label
        if term.class_weights is not None and len(term.class_weights) != classes:
            yield (
                f"terms.{index}.class_weights: {len(term.class_weights)} given, must be {classes}: "
                "of background and every label"
            )


def count_outputs(network: Network) -> int:
    """Return how many outputs a network has in training, without those of `encoder_heads`."""
    match network:
        case UNet() | ResidualUNet():
            return len(network.features) - 1 if network.deep_supervision else 1
        case ContextUNet():
            return min(network.supervised, len(network.features) - 1)
        case DSN3D():
            return len(network.features) - 1
        case TwoBranch():
            return 2
        case DualChannel():
            return count_outputs(network.backbone)
        case _:
            assert_never(network)


def _output_complaints(item: Configuration) -> Iterator[str]:
    """Yield outputs that the network does not have, and weights for other than those it has."""
    loss, network = item.loss, item.network
    heads = loss.encoder_heads if plain_part(network) is not None else 0
    count = count_outputs(network) + heads
    weights = loss.output_weights
    if (heads or weights is not None) and len(weights or ()) != count:
        with_heads = " with encoder_heads: of the decoder, then of the encoder's heads"
        yield (
            f"output_weights: {len(weights or ())} given, must be {count}, from full resolution"
            + (with_heads if heads else "")
        )
    for index, term in enumerate(loss.terms):
        if term.outputs is None:
            continue
        if not term.outputs or min(term.outputs) < 0:
            yield f"terms.{index}.outputs: {list(term.outputs)}, must be numbers of outputs"
        elif max(term.outputs) >= count:
            yield (
                f"terms.{index}.outputs: {list(term.outputs)}, the {item.network.kind} has "
                f"outputs 0 to {count - 1}"
            )
        elif term.kind in FULL_RESOLUTION and 0 not in term.outputs:
            yield f"terms.{index}.outputs: {term.kind} judges output 0 only"


def _head_complaints(item: Configuration, targets: Targets) -> Iterator[str]:
    """Yield heads that the network cannot have, or that no weight is given for."""
    loss, network = item.loss, item.network
    distances = sum(isinstance(term, SignedDistanceTerm) for term in loss.terms)
    if distances > 1:
        yield "terms: signed_distance stands there twice, one head has all its labels"
    if isinstance(network, TwoBranch):
        if targets.regions:
            yield "terms: two_branch is for labels that exclude each other"
        if distances:
            yield "terms: signed_distance has no head in two_branch"
    if not loss.encoder_heads:
        return
    if plain_part(network) is None:
        yield f"encoder_heads: {network.kind} has none, only unet and residual_unet"
        return
    stages = len(network.features)
    if loss.encoder_heads > stages - 2:
        yield f"encoder_heads: {loss.encoder_heads}, there are {stages - 2} stages for them"
