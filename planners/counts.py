"""Feature-map voxels and weights of a network, counted without building it.

The feature-map count is the one that nnU-Net sums over a real network; in closed form it costs
nothing and can be tested against a built network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    GatedEncoders,
    Network,
    PlainNetwork,
    TwoBranch,
    UNet,
)

# Ordinary data sets have a few classes and channels; what goes beyond takes memory that the plain
# count ignores: logits, log-probabilities and gradient of each further class.
FREE_CLASSES, FREE_CHANNELS = 4, 4
MAPS_PER_CLASS = 3
GATED_MAPS = 2  # of each level of two gated encoders: the gate, and what it lets through


def stage_voxels(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Return the voxels of a feature map at each stage."""
    shape, voxels = list(patch), []
    for stride in strides:
        shape = [n // s for n, s in zip(shape, stride, strict=True)]
        voxels.append(prod(shape))
    return voxels


def count_features(network: Network, patch: Sequence[int], classes: int) -> int:
    """Return Σ channels·voxels over the convolution outputs of one sample.

    Args:
        network: Options.
        patch: Voxels per axis.
        classes: Labels including background.
    """
    if isinstance(network, ContextUNet):
        return _count_context_features(network, patch, classes)
    if isinstance(network, DSN3D):
        return _count_dsn3d_features(network, patch, classes)
    if isinstance(network, TwoBranch):
        return _count_two_branch_features(network, patch, classes)
    plain = network.backbone if isinstance(network, DualChannel) else network
    voxels = stage_voxels(patch, plain.strides)
    sizes = [f * v for f, v in zip(plain.features, voxels, strict=True)]
    decoder = sum((n + 1) * s for n, s in zip(plain.convs_decoder, sizes[:-1], strict=True))
    encoder = _count_encoder_features(plain, sizes)
    if isinstance(network, DualChannel) and isinstance(network.variant, GatedEncoders):
        encoder += encoder + GATED_MAPS * sum(sizes)
    return encoder + decoder + classes * voxels[0]


def _count_encoder_features(network: PlainNetwork, sizes: Sequence[int]) -> int:
    if isinstance(network, UNet):
        return sum(n * s for n, s in zip(network.convs_encoder, sizes, strict=True))
    return sizes[0] + sum(
        (2 * n + (stage > 0)) * s
        for stage, (n, s) in enumerate(zip(network.blocks_encoder, sizes, strict=True))
    )


def _count_context_features(network: ContextUNet, patch: Sequence[int], classes: int) -> int:
    """Count the 2.5D network: slices in the encoder, one slice after it."""
    slices = patch[0]
    voxels = stage_voxels((1, *patch[1:]), network.strides)
    total = before = 0
    for stage, (width, blocks) in enumerate(
        zip(network.features, network.blocks_encoder, strict=True)
    ):
        for number in range(blocks):
            depthwise = before if network.separable and (stage or number) else 0
            total += (depthwise + width) * slices * voxels[stage]
            before = width
        if slices > 1:  # scores, weighted slices and their sum
            total += (slices * (1 + width) + width) * voxels[stage]
    deepest, aspp = network.features[-1], network.aspp_features
    total += (2 * aspp + len(network.aspp_rates) * (deepest + aspp)) * voxels[-1]
    width = aspp
    for stage in reversed(range(len(network.features) - 1)):
        joined, width = width + network.features[stage], network.features[stage]
        total += joined * voxels[stage]
        for number in range(network.blocks_decoder[stage]):
            depthwise = (width if number else joined) if network.separable else 0
            total += (depthwise + width) * voxels[stage]
    return total + classes * voxels[0]


def _count_context_parameters(network: ContextUNet, channels: int, classes: int) -> int:
    def block(before: int, after: int, kernel_volume: int) -> int:
        if network.separable:
            return before * kernel_volume + before * after + 3 * after
        return _block(before, after, kernel_volume)

    total, before = 0, channels
    for stage, (width, blocks) in enumerate(
        zip(network.features, network.blocks_encoder, strict=True)
    ):
        volume = 27 if stage and network.slices > 1 else 9
        for number in range(blocks):
            stem = stage == number == 0
            total += _block(before, width, 9) if stem else block(before, width, volume)
            before = width
        total += width + network.slices  # attention
    aspp, rates = network.aspp_features, len(network.aspp_rates)
    total += _block(before, aspp, 1) + rates * (9 * before + _block(before, aspp, 1))
    total += before * aspp + aspp + _block((rates + 2) * aspp, aspp, 1)
    before = aspp
    for stage in reversed(range(len(network.features) - 1)):
        width = network.features[stage]
        for number in range(network.blocks_decoder[stage]):
            total += block(width if number else before + width, width, 9)
        before = width
        if stage < network.supervised:
            total += classes * (width + 1)
    return total


def _count_dsn3d_features(network: DSN3D, patch: Sequence[int], classes: int) -> int:
    """Count encoder, the main way up, and a way up from every stage between first and last."""
    stages = len(network.features)
    voxels = stage_voxels(patch, ((1, 1, 1), *((2, 2, 2),) * (stages - 1)))
    sizes = [f * v for f, v in zip(network.features, voxels, strict=True)]
    encoder = sum(n * s for n, s in zip(network.convs, sizes, strict=True))
    sides = sum(
        sum(sizes[1:stage]) + network.features[0] * voxels[0] for stage in range(1, stages - 1)
    )
    return encoder + sum(sizes[:-1]) + sides + (stages - 1) * classes * voxels[0]


def _count_dsn3d_parameters(network: DSN3D, channels: int, classes: int) -> int:
    widths = network.features
    total, before = 0, channels
    for width, convs in zip(widths, network.convs, strict=True):
        for _ in range(convs):
            total += _block(before, width, 27)
            before = width
    ups = [64 * deep * high for high, deep in pairwise(widths)]
    head = classes * (widths[0] + 1)
    total += sum(ups) + sum(widths[:-1]) + head
    for stage in range(1, len(widths) - 1):
        total += sum(ups[:stage]) + head
    return total


def _count_two_branch_features(network: TwoBranch, patch: Sequence[int], classes: int) -> int:
    voxels = stage_voxels(patch, network.strides)
    total = sum(
        width * size
        for layers, size in zip(network.encoder, voxels, strict=True)
        for _, width in layers
    )
    upward = voxels[-2::-1]
    total += sum(width * size for width, size in zip(network.ups, upward, strict=True))
    for layers, size in zip(network.decoder, upward[:-1], strict=True):
        total += sum(width for _, width in layers) * size
    return total + 2 * (sum(width for _, width in network.branch) + classes) * voxels[0]


def _count_two_branch_parameters(network: TwoBranch, channels: int, classes: int) -> int:
    def chain(before: int, layers: Sequence[tuple[int, int]]) -> int:
        total = 0
        for kernel, width in layers:
            total += before * width * kernel**2 + width
            before = width
        return total

    features = network.features
    befores = (channels, *features[:-1])
    total = sum(chain(n, layers) for n, layers in zip(befores, network.encoder, strict=True))
    before = features[-1]
    for number, (width, skip) in enumerate(zip(network.ups, features[-2::-1], strict=True)):
        total += chain(before, ((2, width),))
        before = width + skip
        if number < len(network.decoder):
            total += chain(before, network.decoder[number])
            before = network.decoder[number][-1][1]
    return total + 2 * chain(before, (*network.branch, (1, classes)))


def count_extra_features(voxels: int, classes: int, channels: int) -> int:
    """Return what many classes and channels add to the count (nothing for ordinary data)."""
    return voxels * (
        MAPS_PER_CLASS * max(0, classes - FREE_CLASSES) + max(0, channels - FREE_CHANNELS)
    )


def count_parameters(network: Network, channels: int, classes: int) -> int:
    """Return the number of weights, all segmentation heads counted."""
    if isinstance(network, ContextUNet):
        return _count_context_parameters(network, channels, classes)
    if isinstance(network, DSN3D):
        return _count_dsn3d_parameters(network, channels, classes)
    if isinstance(network, TwoBranch):
        return _count_two_branch_parameters(network, channels, classes)
    if not isinstance(network, DualChannel):
        return _count_plain_parameters(network, channels, classes)
    total = _count_plain_parameters(network.backbone, channels, classes)
    if isinstance(network.variant, GatedEncoders):
        total += _count_encoder_parameters(network.backbone, network.variant.channels or channels)
        total += sum(3 * width**2 + 2 * width for width in network.features)  # gates and values
    return total


def _count_encoder_parameters(network: PlainNetwork, channels: int) -> int:
    features = network.features
    volumes = [prod(kernel) for kernel in network.kernels]
    total = 0
    before = channels
    if isinstance(network, UNet):
        for stage, convs in enumerate(network.convs_encoder):
            for _ in range(convs):
                total += _block(before, features[stage], volumes[stage])
                before = features[stage]
    else:
        total += _block(channels, features[0], volumes[0])
        before = features[0]
        for stage, blocks in enumerate(network.blocks_encoder):
            for _ in range(blocks):
                total += _block(before, features[stage], volumes[stage])
                total += _block(features[stage], features[stage], volumes[stage])
                if before != features[stage]:
                    total += before * features[stage] + 2 * features[stage]
                before = features[stage]
    return total


def _count_plain_parameters(network: PlainNetwork, channels: int, classes: int) -> int:
    features = network.features
    volumes = [prod(kernel) for kernel in network.kernels]
    total = _count_encoder_parameters(network, channels)
    for stage in range(len(features) - 1):
        width = features[stage]
        total += features[stage + 1] * width * prod(network.strides[stage + 1]) + width
        total += _block(2 * width, width, volumes[stage])
        total += (network.convs_decoder[stage] - 1) * _block(width, width, volumes[stage])
        total += classes * (width + 1)
    return total


def _block(before: int, after: int, kernel_volume: int) -> int:
    """Return the weights of convolution with bias, and norm with scale and shift."""
    return before * after * kernel_volume + 3 * after
