"""Options of every network that selfseg can build; a closed union tagged by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.serial import Record


class UNet(Record):
    """Plain convolutional U-Net. Tuples run from full resolution to the bottleneck.

    Per-axis tuples have two entries in a 2D and three in a 3D network. The first stride is all
    ones. `convs_decoder` has one entry less than there are stages.
    """

    kind: Literal["unet"] = "unet"
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    convs_encoder: tuple[int, ...]
    convs_decoder: tuple[int, ...]
    deep_supervision: bool = True


class ResidualUNet(Record):
    """U-Net with a residual encoder; `blocks_encoder` counts residual blocks per stage."""

    kind: Literal["residual_unet"] = "residual_unet"
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks_encoder: tuple[int, ...]
    convs_decoder: tuple[int, ...]
    deep_supervision: bool = True


Network = Annotated[UNet | ResidualUNet, Field(discriminator="kind")]
