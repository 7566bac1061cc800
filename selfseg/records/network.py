"""Options of every network that selfseg can build; a closed union tagged by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

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


class ContextUNet(Record):
    """2.5D network: several slices in, the middle one segmented (CN114723669A; our reading).

    The patch is (slices, Y, X). The encoder convolves in 3D without pooling across slices; learned
    attention collapses every skip and the bottleneck to one slice; the decoder is 2D.

    Attributes:
        slices: Odd number of slices.
        features: Widths, full resolution first.
        strides: Of each stage, (1, y, x): slices are never pooled. The first is all ones.
        blocks_encoder, blocks_decoder: Separable blocks a stage; the decoder has one stage less.
        aspp_rates: Dilations of the atrous pyramid at the bottleneck.
        aspp_features: Its output width.
        dropout: After the pyramid.
        supervised: Decoder stages with a head, from full resolution.
        separable: Depthwise-separable convolutions; ordinary ones otherwise.
    """

    kind: Literal["context_unet"] = "context_unet"
    slices: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    blocks_encoder: tuple[int, ...]
    blocks_decoder: tuple[int, ...]
    aspp_rates: tuple[int, ...] = (1, 2, 4)
    aspp_features: int = 256
    dropout: float = 0.1
    supervised: int = 3
    separable: bool = True


class DSN3D(Record):
    """The 3D deeply supervised network of Dou et al. 2017 (heart version), for 3D patches.

    Attributes:
        features: Widths, full resolution first; each stage halves the resolution along all axes.
        convs: Convolutions of each stage.
    """

    kind: Literal["dsn3d"] = "dsn3d"
    features: tuple[int, ...] = (32, 64, 128, 256)
    convs: tuple[int, ...] = (1, 2, 2, 2)


class TwoBranch(Record):
    """The 2D network of Yan et al. 2018 as its authors released it: two branches of last layers.

    Every layer is (kernel, width), followed by a ReLU; between encoder stages the resolution is
    halved along both axes. In training the main output is that of the segment-level branch, the
    second that of the pixel-wise one; in prediction both are merged.

    Attributes:
        encoder: Layers of each stage, full resolution first.
        ups: Widths of the deconvolutions, deepest first.
        decoder: Layers after each but the last of them.
        branch: Layers of each of the two branches, before its 1×1 head.
        dropout: After the two deepest stages.
        merge: Foreground probabilities of both are multiplied; `geometric` takes the root of that.
    """

    kind: Literal["two_branch"] = "two_branch"
    encoder: tuple[tuple[tuple[int, int], ...], ...] = (
        ((9, 128), (7, 128)),
        ((5, 128), (3, 128)),
        ((3, 256), (3, 64)),
        ((3, 512), (3, 512)),
        ((3, 1024), (3, 1024)),
    )
    ups: tuple[int, ...] = (512, 256, 128, 128)
    decoder: tuple[tuple[tuple[int, int], ...], ...] = (
        ((3, 512), (3, 512)),
        ((3, 256), (3, 256)),
        ((3, 128), (5, 128)),
    )
    branch: tuple[tuple[int, int], ...] = ((7, 128), (9, 128))
    dropout: float = Field(default=0.5, ge=0.0, lt=1.0)
    merge: Literal["product", "geometric"] = "product"

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of what each encoder stage gives."""
        return tuple(layers[-1][1] for layers in self.encoder)

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Strides of each encoder stage along both axes."""
        return ((1, 1), *((2, 2),) * (len(self.encoder) - 1))


PlainNetwork = UNet | ResidualUNet


class GatedEncoders(Record):
    """V1: a second encoder A beside the primary one P; at every level `P + σ(G[P; A])·W(A)`.

    W starts at zero, so that training starts as P alone and nothing is diluted.

    Attributes:
        channels: First input channels that A sees, those that its weights were made for; None: all.
        source: Where both encoders start: at the weights of the same fold of the previous stage, or
            at random ones, or those of a model that the training starts from.
        frozen: A keeps its weights, which must not be random ones.
    """

    kind: Literal["gated_encoders"] = "gated_encoders"
    channels: int | None = Field(default=None, ge=1)
    source: Literal["fresh", "previous_stage"] = "fresh"
    frozen: bool = False


class JointStreams(Record):
    """V2: one network for two data sets, each with norm parameters of its own.

    In prediction it is the backbone with those of the primary data set.

    Attributes:
        own_heads: The auxiliary data set has heads of its own, for its own labels; else the heads
            are shared, and labels that it does not annotate count as background there.
    """

    kind: Literal["joint_streams"] = "joint_streams"
    own_heads: bool = False


class SecondInput(Record):
    """V3: the backbone, to which the segmentation of the previous stage is a further input."""

    kind: Literal["second_input"] = "second_input"


class DualChannel(Record):
    """Fine network that learns from a second source (methods 4.2: FS-Net; our reading).

    Attributes:
        backbone: The U-Net that it is made of.
        variant: How the second source comes in.
    """

    kind: Literal["dual_channel"] = "dual_channel"
    backbone: Annotated[UNet | ResidualUNet, Field(discriminator="kind")]
    variant: Annotated[GatedEncoders | JointStreams | SecondInput, Field(discriminator="kind")]

    @property
    def features(self) -> tuple[int, ...]:
        """Widths of the backbone, full resolution first."""
        return self.backbone.features

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides of the backbone."""
        return self.backbone.strides


Network = Annotated[
    UNet | ResidualUNet | ContextUNet | DSN3D | TwoBranch | DualChannel,
    Field(discriminator="kind"),
]


def gated_encoders(network: Network) -> GatedEncoders | None:
    """Return the options of a second encoder; None where there is none."""
    if isinstance(network, DualChannel) and isinstance(network.variant, GatedEncoders):
        return network.variant
    return None


def plain_part(network: Network) -> PlainNetwork | None:
    """Return the U-Net that a network is or is made of; None for other kinds."""
    match network:
        case UNet() | ResidualUNet():
            return network
        case DualChannel():
            return network.backbone
        case ContextUNet() | DSN3D() | TwoBranch():
            return None
        case _:
            assert_never(network)
