"""Build a network from its options."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from selfseg.networks.context25d import ContextNetwork
from selfseg.networks.dsn3d import DeeplySupervised3D
from selfseg.networks.unet import EncoderDecoder
from selfseg.records.network import DSN3D, ContextUNet, Network, ResidualUNet, UNet


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
        case _:
            assert_never(options)
