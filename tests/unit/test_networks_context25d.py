"""The 2.5D network: against a 2D network of the same blocks, its attention, its closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from selfseg.planners.counts import count_features, count_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.networks.build import build_network
from selfseg.networks.context25d import ContextNetwork, DepthwiseConv, SliceAttention
from selfseg.networks.layout import set_layout
from selfseg.records.network import ContextUNet


def options(slices: int = 5, *, separable: bool = True, blocks: int = 2) -> ContextUNet:
    return ContextUNet(
        slices=slices,
        features=(4, 6, 8),
        strides=((1, 1, 1), (1, 2, 2), (1, 2, 1)),
        blocks_encoder=(blocks,) * 3,
        blocks_decoder=(blocks,) * 2,
        aspp_features=10,
        dropout=0.0,
        separable=separable,
    )


def network(record: ContextUNet, channels: int = 2, outputs: int = 3) -> ContextNetwork:
    torch.manual_seed(0)
    built = build_network(record, channels=channels, outputs=outputs)
    assert isinstance(built, ContextNetwork)
    for attention in built.collapse:
        assert isinstance(attention, SliceAttention)
        nn.init.normal_(attention.score.weight)
    return built


def norm_act(x: Tensor, norm: Any) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5), 0.01)


def conv_2d(x: Tensor, module: Any, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """Any convolution of the network as 2D: of a 3D kernel the only or the middle slice."""
    weight = module.weight
    weight = weight[:, :, weight.shape[2] // 2] if weight.dim() == 5 else weight
    bias = getattr(module, "bias", None)
    dilation = getattr(module, "dilation", 1)
    dilation = dilation if isinstance(dilation, int) else dilation[-1]
    padding = dilation * (weight.shape[-1] - 1) // 2
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def block_2d(x: Tensor, block: Any, stride: tuple[int, int] = (1, 1)) -> Tensor:
    if isinstance(block.conv, nn.Sequential):
        depthwise, pointwise = block.conv
        out = norm_act(conv_2d(conv_2d(x, depthwise, stride), pointwise), block.norm)
    else:
        out = norm_act(conv_2d(x, block.conv, stride), block.norm)
    return x + out if getattr(block, "has_skip", False) else out


def as_2d(net: Any, record: ContextUNet, x: Tensor) -> Tensor:
    """The forward pass of one slice written out with 2D functions."""
    skips = []
    for stage, stride in zip(net.encoder, record.strides, strict=True):
        for number, block in enumerate(stage):
            x = block_2d(x, block, (1, 1) if number else (stride[1], stride[2]))
        skips.append(x)
    x = skips.pop()
    pyramid = net.pyramid
    first, *dilated = pyramid.branches
    parts = [block_2d(x, first)]
    for depthwise, block in dilated:
        parts.append(block_2d(conv_2d(x, depthwise), block))
    whole = F.leaky_relu(conv_2d(x.mean((2, 3), keepdim=True), pyramid.whole), 0.01)
    x = block_2d(torch.cat([*parts, whole.expand_as(parts[0])], 1), pyramid.join)
    for blocks in net.decoder:
        skip = skips.pop()
        x = torch.cat([F.interpolate(x, skip.shape[2:], mode="bilinear"), skip], 1)
        for block in blocks:
            x = block_2d(x, block)
    return conv_2d(x, net.heads["0"])


@pytest.mark.parametrize("separable", [True, False])
def test_one_slice_equals_the_2d_network_of_the_same_blocks(separable: bool) -> None:
    record = options(1, separable=separable)
    net = network(record).eval()
    x = torch.randn(2, 2, 1, 16, 24)
    (logits,) = net(x)
    assert logits.shape == (2, 3, 1, 16, 24)
    torch.testing.assert_close(
        logits[:, :, 0], as_2d(net, record, x[:, :, 0]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("slices", [3, 5, 9])
def test_outputs_have_one_slice_and_run_from_fine_to_coarse(slices: int) -> None:
    net = network(options(slices)).train()
    outputs = net(torch.randn(2, 2, slices, 16, 24))
    assert [tuple(out.shape) for out in outputs] == [(2, 3, 1, 16, 24), (2, 3, 1, 8, 12)]
    assert len(net.eval()(torch.randn(1, 2, slices, 16, 24))) == 1


def test_attention_starts_at_the_middle_slice() -> None:
    net = build_network(options(5), channels=1, outputs=2)
    assert isinstance(net, ContextNetwork)
    for attention, width in zip(net.collapse, (4, 6, 8), strict=True):
        assert isinstance(attention, SliceAttention)
        weights = attention.weights(torch.randn(2, width, 5, 4, 4))
        torch.testing.assert_close(weights.sum(2), torch.ones(2, 1, 4, 4))
        e2 = torch.e**2
        torch.testing.assert_close(weights[:, :, 2], torch.full((2, 1, 4, 4), e2 / (e2 + 4)))


def test_every_slice_reaches_the_output_and_its_gradient_comes_back() -> None:
    x = torch.randn(1, 2, 5, 16, 24, requires_grad=True)
    network(options(5)).eval()(x)[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize(("slices", "depth"), [(5, 3), (1, 3), (2, 5), (4, 1)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_depthwise_convolution_equals_torchs(
    slices: int, depth: int, stride: tuple[int, int]
) -> None:
    ours = DepthwiseConv(3, (depth, 3, 3), stride)
    x = torch.randn(2, 3, slices, 8, 10)
    padding = (depth // 2, 1, 1)
    expected = F.conv3d(x, ours.weight, None, (1, *stride), padding, groups=3)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_layout_changes_nothing_but_speed(layout: torch.memory_format) -> None:
    net, x = network(options(5)).eval(), torch.randn(2, 2, 5, 16, 24)
    expected = net(x)[0]
    set_layout(net, layout)
    got = net(x.contiguous(memory_format=layout))[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_parameters_equal_their_closed_form(slices: int, separable: bool, blocks: int) -> None:
    record = options(slices, separable=separable, blocks=blocks)
    net = network(record, channels=3, outputs=4)
    assert sum(p.numel() for p in net.parameters()) == count_parameters(record, 3, 4)


@pytest.mark.parametrize("slices", [3, 7])
@pytest.mark.parametrize("separable", [True, False])
def test_feature_count_is_that_of_the_built_network(slices: int, separable: bool) -> None:
    """Convolution outputs, what attention adds, and the decoder's concatenated inputs."""
    record = options(slices, separable=separable)
    net = network(record).eval()
    sizes: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        sizes.append(out.numel())

    kinds = (nn.Conv2d, nn.Conv3d, DepthwiseConv, SliceAttention)
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(count)
    widths: list[int] = []
    for blocks, collapse in zip(net.decoder, reversed(net.collapse[:-1]), strict=True):
        assert isinstance(collapse, SliceAttention)
        blocks.register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0].numel()))
    net(torch.randn(1, 2, slices, 16, 24))
    weighted = sum(f * slices * v for f, v in zip((4, 6, 8), (384, 96, 48), strict=True))
    pooled = 10  # the image-level branch has one voxel
    expected = sum(sizes) + sum(widths) + weighted - pooled
    assert count_features(record, (slices, 16, 24), 3) == expected
