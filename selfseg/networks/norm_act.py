"""Instance normalization followed by leaky ReLU, as one step that stays in channels-last memory.

torch's own instance norm copies channels-last tensors to planar memory and back, which costs up
to a third of a training step on a CPU. Its batch norm has kernels for channels-last memory and
for reduced formats; of one sample, it is the instance norm. But they add up all voxels one by one
in float32, so sums are made in groups of voxels first, in the forward and the backward pass.
Elsewhere (planar memory, CUDA) torch's own operators are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
GROUPS = 256  # most sums of which one is made


class InstanceNormLeakyReLU(nn.Module):
    """`leaky_relu(instance_norm(x))` over (b, c, *spatial); no running statistics.

    Args:
        channels: Number of channels.
        eps: Added to the variance.
        slope: Negative slope; 1.0 leaves out the activation.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, slope: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each sample and channel over space, then activate."""
        if _suits(x, self.weight):
            return _fused(x, self.weight, self.bias, self.eps, self.slope)
        normalized = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return F.leaky_relu(normalized, self.slope, inplace=True)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Tell whether `x` is on the CPU in channels-last memory with more than one channel.

    While a network is traced or compiled it is not: others find operators that they know.
    """
    if x.device.type != "cpu" or x.dtype not in FORMATS or x.shape[1] == 1 or not x.numel():
        return False
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return False
    layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    return weight.dtype == torch.float32 and x.is_contiguous(memory_format=layout)


def _fused(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    result: Tensor = _NormAct.apply(x, weight, bias, eps, slope)  # type: ignore[no-untyped-call]
    return result


def _grouped(sample: Tensor) -> list[Tensor]:
    """View a channels-last sample (1, c, *spatial) as images whose groups are further channels.

    Returns:
        Up to two images (1, groups·c, voxels of a group, 1): all whole groups, and the rest.
    """
    rows = sample.movedim(1, -1).flatten(0, -2)  # (voxels, c), contiguous
    whole = len(rows) - len(rows) % GROUPS
    parts = (rows[:whole].reshape(-1, GROUPS * rows.shape[1]), rows[whole:])
    return [part.t()[None, :, :, None] for part in parts if part.numel()]


def _statistics(sample: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over space, (c,), in the format of the weight."""
    means, variances, shares = [], [], []
    for part in _grouped(sample):
        # The kernel wants running statistics, and gives its results in their format.
        kept = weight.new_zeros((2, part.shape[1]))
        mean, variance = torch.batch_norm_update_stats(part, kept[0], kept[1], 0.0)
        means.append(mean.view(-1, len(weight)))
        variances.append(variance.view(-1, len(weight)))
        voxels = sample[0, 0].numel()
        shares.append(weight.new_full((len(means[-1]), 1), part.shape[2] / voxels))
    of_groups, share = torch.cat(means), torch.cat(shares)
    mean = (of_groups * share).sum(dim=0)
    return mean, ((torch.cat(variances) + (of_groups - mean).square()) * share).sum(dim=0)


def _sums(
    grad: Tensor, sample: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Return Σ g·x̂ and Σ g over space, (c,), with x̂ = (x − mean)·inverse_std."""
    products, gradients = torch.zeros_like(mean), torch.zeros_like(mean)
    for grad_part, part in zip(_grouped(grad), _grouped(sample), strict=True):
        groups = part.shape[1] // len(mean)
        _, product, gradient = torch.ops.aten.native_batch_norm_backward(
            grad_part, part, weight.repeat(groups), None, None, mean.repeat(groups),
            inverse_std.repeat(groups), True, 0.0, [False, True, True],
        )  # fmt: skip
        products += product.view(groups, -1).sum(dim=0)
        gradients += gradient.view(groups, -1).sum(dim=0)
    return products, gradients


def _affine_(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> None:
    """Write scale·x + shift, by channel."""
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    unused = (scale.new_empty(0), scale.new_empty(0))
    torch.native_batch_norm(x, scale, shift, zeros, ones, False, 0.0, 0.0, out=(out, *unused))


class _NormAct(torch.autograd.Function):
    """Keeps its input for the backward pass, and its output, which has the activation's sign."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        y = torch.empty_like(x)
        found = [_statistics(x[n : n + 1], weight) for n in range(len(x))]
        mean = torch.stack([item[0] for item in found])
        inverse_std = torch.rsqrt(torch.stack([item[1] for item in found]) + eps)
        scale = weight * inverse_std
        shift = bias - mean * scale
        for n in range(len(x)):
            _affine_(y[n : n + 1], x[n : n + 1], scale[n], shift[n])
        if slope != 1.0:
            F.leaky_relu_(y, slope)
        ctx.save_for_backward(x, None if slope == 1.0 else y, weight, mean, inverse_std)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, y, weight, mean, inverse_std = ctx.saved_tensors
        layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
        grad = grad.contiguous(memory_format=layout)
        if y is not None:  # it has the sign of the normalized value
            grad = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        voxels = x[0, 0].numel()
        grad_x, of_x = torch.empty_like(x), torch.empty_like(x[:1])
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for n in range(len(x)):
            one = slice(n, n + 1)
            products, gradients = _sums(grad[one], x[one], weight, mean[n], inverse_std[n])
            # dx = w·inverse_std·(g − mean(g) − x̂·mean(g·x̂)); both terms without their means, since
            # reduced formats round them before they are added
            a = weight * inverse_std[n]
            b = -a * inverse_std[n] * products / voxels
            _affine_(grad_x[one], grad[one], a, -a * gradients / voxels)
            _affine_(of_x, x[one], b, -b * mean[n])
            grad_x[one] += of_x
            of_weight += products
            of_bias += gradients
        return grad_x, of_weight, of_bias, None, None
