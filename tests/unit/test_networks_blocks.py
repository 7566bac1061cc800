"""Blocks written out with torch's functions, and the statistics of their initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from selfseg.networks.blocks import ConvBlock, ResidualBlock, conv_stage, initialize
from selfseg.networks.build import build_network
from selfseg.networks.norm_act import InstanceNormLeakyReLU
from selfseg.records.network import UNet


def filled(module: nn.Module, seed: int) -> nn.Module:
    """Return the module with random weights everywhere, norms included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module


def norm(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    assert isinstance(module, InstanceNormLeakyReLU)
    return F.instance_norm(x, weight=module.weight, bias=module.bias, eps=1e-5)


def conv(x: torch.Tensor, module: nn.Module, stride: int, padding: int) -> torch.Tensor:
    assert isinstance(module, nn.Conv2d)
    return F.conv2d(x, module.weight, module.bias, stride, padding)


def test_residual_block_pools_projects_and_adds() -> None:
    block = filled(ResidualBlock(3, 5, (3, 3), (2, 2)), 0)
    assert isinstance(block, ResidualBlock)
    x = torch.randn(2, 3, 8, 6)
    main = F.leaky_relu(norm(conv(x, block.first.conv, 2, 1), block.first.norm), 0.01)
    main = norm(conv(main, block.second.conv, 1, 1), block.second.norm)
    projection = block.skip[1]
    assert isinstance(projection, ConvBlock)
    assert isinstance(projection.conv, nn.Conv2d)
    assert projection.conv.bias is None
    skip = norm(conv(F.avg_pool2d(x, 2, 2), projection.conv, 1, 0), projection.norm)
    torch.testing.assert_close(block(x), F.leaky_relu(main + skip, 0.01), rtol=1e-4, atol=1e-4)


def test_residual_block_without_change_of_shape_starts_as_its_activation() -> None:
    block = ResidualBlock(4, 4, (3, 3, 3), (1, 1, 1))
    initialize(block)
    assert len(block.skip) == 0
    x = torch.randn(1, 4, 4, 4, 4)
    torch.testing.assert_close(block(x), F.leaky_relu(x, 0.01))


def test_stage_puts_the_stride_first() -> None:
    stage = conv_stage(2, 4, (1, 3, 3), (1, 2, 2), 3)
    convs = [module for module in stage.modules() if isinstance(module, nn.Conv3d)]
    assert [c.stride for c in convs] == [(1, 2, 2), (1, 1, 1), (1, 1, 1)]
    assert [c.padding for c in convs] == [(0, 1, 1)] * 3
    assert stage(torch.randn(1, 2, 4, 8, 8)).shape == (1, 4, 4, 4, 4)


@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
def test_weights_are_kaiming_normal_and_biases_zero(kind: type[nn.Conv3d]) -> None:
    torch.manual_seed(0)
    layer = kind(32, 48, 3)
    initialize(layer)
    fan_in = layer.weight.shape[1] * 27
    assert float(layer.weight.detach().std()) == pytest.approx(
        math.sqrt(2 / (1 + 0.01**2) / fan_in), rel=0.02
    )
    assert layer.bias is not None
    assert not layer.bias.detach().any()


def test_decoder_concatenates_the_upsampled_before_the_skip() -> None:
    options = UNet(
        features=(2, 3),
        kernels=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        convs_encoder=(1, 1),
        convs_decoder=(1,),
    )
    network = filled(build_network(options, channels=1, outputs=2), 1)
    x = torch.randn(1, 1, 4, 6)
    encoder, decoder, up, heads = (
        network.get_submodule(name) for name in ("encoder", "decoder", "upsample", "heads")
    )
    top = encoder.get_submodule("0")(x)
    joined = torch.cat((up.get_submodule("0")(encoder.get_submodule("1")(top)), top), dim=1)
    expected = heads.get_submodule("0")(decoder.get_submodule("0")(joined))
    outputs = network(x)
    assert len(outputs) == 1  # two stages have one decoder stage
    torch.testing.assert_close(outputs[0], expected)


def test_without_deep_supervision_there_is_one_output_in_training() -> None:
    options = UNet(
        features=(2, 3, 4),
        kernels=((3, 3),) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        convs_encoder=(1, 1, 1),
        convs_decoder=(1, 1),
        deep_supervision=False,
    )
    assert len(build_network(options, channels=1, outputs=2).train()(torch.randn(1, 1, 8, 8))) == 1


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("size", [6, 16, 79, 80])
def test_fused_norm_is_as_exact_as_torch_far_from_zero(offset: float, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, *[size] * 3).contiguous(memory_format=torch.channels_last_3d) + offset
    exact, ours, torchs = (normalized(x, kind) for kind in ("exact", "ours", "torch"))
    for true, our, their in zip(exact, ours, torchs, strict=True):
        scale = true.abs().mean()
        error, torch_error = ((found - true).abs().mean() / scale for found in (our, their))
        assert float(error) <= max(4 * float(torch_error), 2e-5)


def normalized(x: torch.Tensor, kind: str) -> list[torch.Tensor]:
    """Return the output, and gradients of image, weight and bias, in float64."""
    torch.manual_seed(1)
    module = InstanceNormLeakyReLU(x.shape[1])
    module.weight.data.uniform_(0.5, 1.5)
    grad = 0.3 + 0.1 * torch.randn(x.shape)
    if kind == "exact":
        module, x, grad = module.double(), x.double(), grad.double()
    image = x.contiguous() if kind != "ours" else x.clone()
    image.requires_grad_()
    y = module(image)
    y.backward(grad)
    assert image.grad is not None
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    found = (y.detach(), image.grad, module.weight.grad, module.bias.grad)
    return [item.double() for item in found]


def test_parameters_in_a_reduced_format_are_left_to_torch() -> None:
    x = torch.randn(2, 4, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d).bfloat16()
    assert InstanceNormLeakyReLU(4).bfloat16()(x).dtype == torch.bfloat16
