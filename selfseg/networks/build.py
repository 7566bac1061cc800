"""Build a network from its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from torch import nn

from selfseg.networks.context25d import ContextNetwork
from selfseg.networks.dsn3d import DeeplySupervised3D
from selfseg.networks.dual_channel import AuxiliaryStream, SecondEncoder
from selfseg.networks.training_heads import HeadCounts, TrainingHeads
from selfseg.networks.two_branch import TwoBranchNetwork
from selfseg.networks.unet import EncoderDecoder
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    GatedEncoders,
    JointStreams,
    Network,
    ResidualUNet,
    SecondInput,
    TwoBranch,
    UNet,
    plain_part,
)


def build_network(options: Network, *, channels: int, outputs: int) -> nn.Module:
    """Return a freshly initialized network: (b, channels, *D) → tuple of (b, outputs, *D).

    Outputs run from full resolution to coarse; there is one in evaluation mode.
    """
    match options:
        case UNet() | ResidualUNet():
            return EncoderDecoder(options, channels=channels, outputs=outputs)
        case ContextUNet():
            return ContextNetwork(options, channels=channels, outputs=outputs)
        case DSN3D():
            return DeeplySupervised3D(options, channels=channels, outputs=outputs)
        case TwoBranch():
            return TwoBranchNetwork(options, channels=channels, outputs=outputs)
        case DualChannel():
            return _dual_channel(options, channels=channels, outputs=outputs)
        case _:
            assert_never(options)


def build_training_network(
    options: Network,
    *,
    channels: int,
    outputs: int,
    heads: HeadCounts,
    stream_outputs: int | None = None,
) -> nn.Module:
    """Return a fresh network with the heads that only training uses.

    They are drawn last: all other weights are those of a network without them. `stream_outputs`
    are the outputs for an auxiliary data set, for which some networks have parameters of its own;
    without such a data set they have none.
    """
    network = build_network(options, channels=channels, outputs=outputs)
    if stream_outputs is not None and isinstance(options, DualChannel):
        _add_stream(network, options, stream_outputs)
    if heads == HeadCounts() or isinstance(options, TwoBranch):
        return network
    plain = plain_part(options)
    strides: Sequence[Sequence[int]] = plain.strides if plain is not None else ()
    dims = len(strides[0]) if strides else 2 if isinstance(options, ContextUNet) else 3
    network.training_heads = TrainingHeads(
        heads,
        features=options.features,
        strides=strides,
        width=options.features[0],
        dims=dims,
        outputs=outputs,
    )
    return network


def _add_stream(network: nn.Module, options: DualChannel, outputs: int) -> None:
    """Give a network parameters of its own for an auxiliary data set, if it is to have some."""
    if isinstance(options.variant, JointStreams):
        own = outputs if options.variant.own_heads else None
        network.auxiliary_stream = AuxiliaryStream(network, own)


def _dual_channel(options: DualChannel, *, channels: int, outputs: int) -> nn.Module:
    """Return the backbone with what its variant adds, which is drawn last."""
    network = EncoderDecoder(options.backbone, channels=channels, outputs=outputs)
    match options.variant:
        case GatedEncoders():
            network.second = SecondEncoder(options.backbone, options.variant, channels)
        case JointStreams() | SecondInput():
            pass  # what differs is what they are trained on, and what their input is
        case _:
            assert_never(options.variant)
    return network
