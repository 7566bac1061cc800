"""How a network is pretrained without labels, and whether the result may be worth a race."""

from __future__ import annotations

from math import prod

from selfseg.records.ideas import Idea
from selfseg.records.network import ContextUNet, Network
from selfseg.records.plan import Configuration, Decision
from selfseg.records.pretraining import MaskedReconstruction, Pretrained
from selfseg.records.transfer import Start

FEWEST_BLOCKS = 4  # along an axis of the patch: with fewer, nothing around a block tells of it


def decide_pretraining(configuration: Configuration) -> tuple[MaskedReconstruction, Decision]:
    """Mask blocks as large as a voxel of the bottleneck, six in ten.

    Args:
        configuration: Whose network is pretrained.
    """
    strides = _total_strides(configuration.network, len(configuration.patch))
    block = tuple(
        max(1, min(stride, size // FEWEST_BLOCKS))
        for stride, size in zip(strides, configuration.patch, strict=True)
    )
    value = MaskedReconstruction(block=block)
    decision = Decision(
        rule="pretraining",
        subject=f"configurations.{configuration.name}",
        value=f"{value.share:.0%} of blocks of {'×'.join(map(str, block))} voxels masked",
        because="a block as large as a voxel of the bottleneck (at most a quarter of the patch) "
        "cannot be painted from its rim alone; the share is ours, not measured",
    )
    return value, decision


def nominate_pretrained(made: Pretrained, start: Start) -> Idea | None:
    """Return the idea to start from a pretrained network; None where it has learned nothing.

    Args:
        made: The network.
        start: How trainings would ask for it.
    """
    if made.error >= made.error_of_zeros:
        return None
    return Idea(
        name="pretrained",
        configuration=made.configuration.name,
        start=start,
        because=f"{made.steps} steps on {len(made.cases)} images without labels: the error of "
        f"masked voxels is {made.error:.4f}, that of zeros {made.error_of_zeros:.4f}; weights "
        f"{made.model.digest}",
    )


def _total_strides(network: Network, dims: int) -> tuple[int, ...]:
    if isinstance(network, ContextUNet) or network.kind in (
        "unet",
        "residual_unet",
        "two_branch",
        "dual_channel",
    ):
        return tuple(prod(stride[axis] for stride in network.strides) for axis in range(dims))
    return (2 ** (len(network.features) - 1),) * dims
