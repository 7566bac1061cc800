"""Network families with the memory references they were tuned at, and building their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfseg.records.network import ContextUNet, Network, ResidualUNet, UNet
from selfseg.records.plan import Decision

from .topology import Topology

FIRST_FEATURES = 32
MOST_FEATURES_2D, MOST_FEATURES_3D = 512, 320
CONVS_PER_STAGE = 2
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # deeper stages repeat the last
RESIDUAL_CONVS_DECODER = 1
# By the bottleneck's shorter side: a rate above half of it is a 1×1 convolution in disguise.
ASPP_RATES = ((48, (6, 12, 18)), (24, (3, 6, 9)), (0, (1, 2, 4)))
CONTEXT_SUPERVISED = 3
REFERENCE_BATCH_2D, REFERENCE_BATCH_3D = 12, 2
BATCH_SHARE = 0.05  # of the data set's voxels in one batch


@dataclass(frozen=True)
class Family:
    """A kind of network and its reference: so many feature-map voxels fill so many GB.

    Attributes:
        kind: Network kind.
        features_3d, features_2d: Feature-map voxels of the reference batch.
        memory_gb: Memory that the references fill; they scale linearly with the target.
        shrink_at_batch_2: The patch shrinks only when batch 2 does not fit (plain U-Net), not
            already when the reference batch does not (residual). Differs in 2D only.
        batch_share: Cap of the batch as a share of the data set; 1.0 is no cap.
        slices: Slices that a 2.5D network sees; its sizes in plane follow the 2D reference.
    """

    kind: Literal["unet", "residual_unet", "context_unet"]
    features_3d: float
    features_2d: float
    memory_gb: float
    shrink_at_batch_2: bool = False
    batch_share: float = BATCH_SHARE
    slices: int = 0

    def full_patch(self, in_plane: tuple[int, ...]) -> tuple[int, ...]:
        """Return a patch with the slices of a 2.5D network in front."""
        return (self.slices, *in_plane) if self.slices else in_plane


# The references of nnU-Net 2.8.1; its residual presets M, L, XL have no cap, ours do.
PLAIN = Family("unet", 560e6, 85e6, 8, shrink_at_batch_2=True)
RESIDUAL_M = Family("residual_unet", 680e6, 135e6, 8)
RESIDUAL_L = Family("residual_unet", 2.1e9, 380e6, 24)
RESIDUAL_XL = Family("residual_unet", 3.6e9, 560e6, 40)


def choose_family(device: str, memory_gb: float) -> tuple[Family, Decision]:
    """Take the residual encoder where a GPU pays for it, the plain U-Net on a CPU."""
    if device == "cpu":
        because = (
            "a residual encoder costs about 1.5 times the arithmetic for about half a Dice point; "
            "on a CPU that time is better spent on more training steps of a plain U-Net"
        )
        family, others = PLAIN, ("residual_unet",)
    else:
        family = RESIDUAL_M
        for larger in (RESIDUAL_L, RESIDUAL_XL):
            family = larger if memory_gb >= larger.memory_gb else family
        because = (
            f"with {memory_gb:g} GB on a GPU a residual encoder scores higher than a plain U-Net "
            f"in published cross-validations; reference tuned at {family.memory_gb} GB"
        )
        others = ("unet",)
    decision = Decision(
        rule="family", subject="network family", value=family.kind, because=because,
        alternatives=others,
    )  # fmt: skip
    return family, decision


def build_options(family: Family, topology: Topology) -> Network:
    """Return the network's options for a topology."""
    stages = len(topology.strides)
    most = MOST_FEATURES_2D if len(topology.patch) == 2 else MOST_FEATURES_3D
    features = tuple(min(most, FIRST_FEATURES * 2**stage) for stage in range(stages))
    if family.kind == "context_unet":
        return _context_options(family.slices, topology)
    if family.kind == "unet":
        return UNet(
            features=features,
            kernels=topology.kernels,
            strides=topology.strides,
            convs_encoder=(CONVS_PER_STAGE,) * stages,
            convs_decoder=(CONVS_PER_STAGE,) * (stages - 1),
        )
    return ResidualUNet(
        features=features,
        kernels=topology.kernels,
        strides=topology.strides,
        blocks_encoder=_blocks(stages),
        convs_decoder=(RESIDUAL_CONVS_DECODER,) * (stages - 1),
    )


def context_family(slices: int) -> Family:
    """Return the family of 2.5D networks that see so many slices; it has the 2D reference."""
    return Family("context_unet", 0, PLAIN.features_2d, 8, shrink_at_batch_2=True, slices=slices)


def _context_options(slices: int, topology: Topology) -> ContextUNet:
    stages = len(topology.strides)
    smallest = min(n // d for n, d in zip(topology.patch, topology.divisors, strict=True))
    return ContextUNet(
        slices=slices,
        features=tuple(min(MOST_FEATURES_3D, FIRST_FEATURES * 2**stage) for stage in range(stages)),
        strides=tuple((1, *stride) for stride in topology.strides),
        blocks_encoder=(CONVS_PER_STAGE,) * stages,
        blocks_decoder=(CONVS_PER_STAGE,) * (stages - 1),
        aspp_rates=next(rates for size, rates in ASPP_RATES if smallest >= size),
        supervised=min(CONTEXT_SUPERVISED, stages - 1),
    )


def _blocks(stages: int) -> tuple[int, ...]:
    return tuple(RESIDUAL_BLOCKS[min(stage, len(RESIDUAL_BLOCKS) - 1)] for stage in range(stages))
