"""Networks: parameter counts, shapes, initialization, and the fused norm against torch's own."""

from __future__ import annotations

import pytest
import torch
from selfseg.planners.families import PLAIN, RESIDUAL_M, Family, build_options
from selfseg.planners.topology import decide_topology
from torch.nn import functional as F

from selfseg.networks.blocks import ResidualBlock
from selfseg.networks.build import build_network
from selfseg.networks.norm_act import InstanceNormLeakyReLU
from selfseg.records.network import ResidualUNet, UNet

TINY = UNet(
    features=(4, 8, 16),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    convs_encoder=(2, 2, 2),
    convs_decoder=(2, 2),
)
TINY_RESIDUAL = ResidualUNet(
    features=(4, 8, 16),
    kernels=((3, 3), (3, 3), (3, 3)),
    strides=((1, 1), (2, 2), (2, 2)),
    blocks_encoder=(1, 2, 2),
    convs_decoder=(1, 1),
)


@pytest.mark.parametrize(
    ("family", "spacing", "patch", "classes", "millions"),
    [
        (PLAIN, (1, 1, 1), (128, 128, 128), 3, 31.20),
        (RESIDUAL_M, (1, 1, 1), (128, 128, 128), 3, 102.35),
        (PLAIN, (1.37, 1.25, 1.25), (80, 192, 160), 2, 30.79),
        (RESIDUAL_M, (1.37, 1.25, 1.25), (80, 192, 160), 2, 101.94),
        (PLAIN, (1, 1), (512, 512), 3, 46.33),
        (RESIDUAL_M, (1, 1), (512, 512), 3, 140.02),
        (PLAIN, (1, 1, 1), (40, 56, 40), 3, 5.60),
        (RESIDUAL_M, (1, 1, 1), (40, 56, 40), 3, 25.90),
    ],
)
def test_parameter_counts_of_nnunet(
    family: Family,
    spacing: tuple[float, ...],
    patch: tuple[int, ...],
    classes: int,
    millions: float,
) -> None:
    options = build_options(family, decide_topology(spacing, patch))
    with torch.device("meta"):
        network = build_network(options, channels=1, outputs=classes)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 2) == millions


def test_outputs_halve_with_the_strides_and_only_one_is_left_in_evaluation() -> None:
    network = build_network(TINY, channels=2, outputs=3)
    image = torch.randn(2, 2, 6, 16, 24)
    shapes = [tuple(out.shape) for out in network(image)]
    assert shapes == [(2, 3, 6, 16, 24), (2, 3, 6, 8, 12)]
    network.eval()
    assert [tuple(out.shape) for out in network(image)] == [(2, 3, 6, 16, 24)]


def test_residual_2d_runs_backward_through_every_weight_in_use() -> None:
    network = build_network(TINY_RESIDUAL, channels=1, outputs=2)
    outputs = network(torch.randn(2, 1, 16, 16))
    assert len(outputs) == 2
    torch.stack([out.square().mean() for out in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_residual_branches_start_at_zero() -> None:
    network = build_network(TINY_RESIDUAL, channels=1, outputs=2)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 5
    assert all(float(block.second.norm.weight.detach().abs().max()) == 0 for block in blocks)


@pytest.mark.parametrize("shape", [(2, 6, 5, 7, 4), (3, 4, 9, 8)])
@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_fused_norm_equals_torch_forward_and_backward(shape: tuple[int, ...], slope: float) -> None:
    torch.manual_seed(1)
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    module = InstanceNormLeakyReLU(shape[1], slope=slope)
    module.weight.data.uniform_(0.5, 2)
    module.bias.data.normal_()
    image, gradient = torch.randn(shape) * 3 + 1, torch.randn(shape)
    ours = image.clone().contiguous(memory_format=layout).requires_grad_()
    module(ours).backward(gradient)
    theirs = image.clone().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in (module.weight, module.bias))
    expected = F.leaky_relu(F.instance_norm(theirs, weight=weight, bias=bias, eps=1e-5), slope)
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(module(ours), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)
    assert module(ours).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 6, 9, 8), (2, 6, 5, 7, 6)])
def test_fused_norm_in_reduced_formats_keeps_the_layout_and_float32_statistics(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    module = InstanceNormLeakyReLU(shape[1])
    module.weight.data.normal_()
    x = (torch.randn(shape) + 3).to(dtype).contiguous(memory_format=layout).requires_grad_()
    exact = x.detach().float().requires_grad_()
    y, expected = module(x), module(exact)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    grad = torch.randn(shape)
    y.backward(grad.to(dtype))
    expected.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.float(), exact.grad, rtol=4e-2, atol=4e-2)


def test_fused_norm_in_double_passes_gradcheck() -> None:
    from selfseg.networks.norm_act import _NormAct

    image = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64)
    image = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: _NormAct.apply(x, w, b, 1e-5, 0.01),  # type: ignore[no-untyped-call]
        (image, weight, bias),
    )
