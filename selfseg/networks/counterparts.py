"""Which weight of one network stands at the same place in another of its kind, and which is what.

Encoder stages count from full resolution down. Decoder stages count from the deepest up, so that
those of networks of different depth are told apart by their resolution, not by their number.
"""

from __future__ import annotations

import re
from typing import assert_never

from selfseg.networks.training_heads import PREFIX, STREAM
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    GatedEncoders,
    Network,
    ResidualUNet,
    TwoBranch,
    UNet,
)

DEEPEST_FIRST = {"upsample", "decoder", "ups", "sides", "heads"}
STEMS = {"encoder.0.0.conv.weight", "encoder.0.0.weight"}  # kernels that see the input channels
ENCODER, HEADS, SECOND = "encoder.", "heads.", "second."
STREAM_PARAMETERS = STREAM + "parameters_of."  # of an auxiliary data set; names have '/' for '.'


def counterpart(name: str, target: Network, source: Network) -> str | None:
    """Return the name that a weight of `target` has in `source`; None if it is deeper than that.

    Both networks are of one kind; whether `source` has that weight, and of which shape, is not
    looked at. A second encoder stands at the place of the primary one where `source` has but one,
    norm parameters for an auxiliary data set at that of the primary ones.
    """
    if name.startswith(STREAM_PARAMETERS):
        name = name.removeprefix(STREAM_PARAMETERS).replace("/", ".")
        if name.startswith(HEADS):
            return None  # they give the labels of that data set
    if name.startswith(SECOND + ENCODER) and not has_second_encoder(source):
        name = name.removeprefix(SECOND)
    part, _, rest = name.partition(".")
    by_stage = part == "heads" and isinstance(target, ContextUNet)
    if part not in DEEPEST_FIRST or by_stage:
        return name
    number, _, rest = rest.partition(".")
    there = int(number) + len(source.features) - len(target.features)
    return f"{part}.{there}.{rest}" if there >= 0 else None


def is_head(name: str, network: Network) -> bool:
    """Tell whether a weight belongs to a layer that gives logits, one row for each output."""
    if name.startswith(PREFIX):
        return True
    match network:
        case UNet() | ResidualUNet() | ContextUNet() | DualChannel():
            return name.startswith(HEADS)
        case DSN3D():
            side = re.match(r"sides\.(\d+)\.(\d+)\.", name)
            if side is None:
                return name.startswith("head.")
            # As many deconvolutions as there are stages above, then the head.
            return int(side[2]) == len(network.features) - 2 - int(side[1])
        case TwoBranch():
            return re.match(r"branches\.\d\.1\.", name) is not None
        case _:
            assert_never(network)


def is_stem(name: str) -> bool:
    """Tell whether a weight is a kernel that sees the network's input channels."""
    return name.removeprefix(SECOND) in STEMS


def has_second_encoder(network: Network) -> bool:
    """Tell whether a network has a second encoder beside the primary one."""
    return isinstance(network, DualChannel) and isinstance(network.variant, GatedEncoders)


def is_upsampling(name: str) -> bool:
    """Tell whether a kernel is that of a transposed convolution as large as its stride."""
    return name.startswith(("upsample.", "ups."))
