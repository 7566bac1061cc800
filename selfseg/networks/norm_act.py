"""Instance normalization followed by leaky ReLU, as one step that stays in channels-last memory.

torch's own instance norm copies channels-last tensors to planar memory and back, which costs up
to a third of a training step on a CPU. Its batch norm has kernels for channels-last memory and
for reduced formats; of one sample, it is the instance norm. But it adds up all voxels one by one
in float32, so the sums are made in groups of voxels first.
Elsewhere (planar memory, CUDA) torch's own operators are used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
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
        if _suits(x):
            return _fused(x, self.weight, self.bias, self.eps, self.slope)
        normalized = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return F.leaky_relu(normalized, self.slope, inplace=True)


def _suits(x: Tensor) -> bool:
    """Tell whether `x` is on the CPU in channels-last memory with more than one channel.

    While a network is traced or compiled it is not: others find operators that they know.
    """
    if x.device.type != "cpu" or x.dtype not in FORMATS or x.shape[1] == 1:
        return False
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return False
    layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    return x.is_contiguous(memory_format=layout)


def _fused(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    result: Tensor = _NormAct.apply(x, weight, bias, eps, slope)  # type: ignore[no-untyped-call]
    return result


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over space, (b, c), of channels-last `x`; float32 or better."""
    rows = x.movedim(1, -1).flatten(1, -2)  # (b, voxels, c), contiguous
    samples, voxels, channels = rows.shape
    groups = math.gcd(voxels, GROUPS)  # neighboring voxels, so groups look like further channels
    grouped = rows.reshape(samples, voxels // groups, groups * channels)
    # The kernel wants running statistics, and gives its results in their format.
    precise = torch.promote_types(x.dtype, torch.float32)
    kept_mean, kept_variance = x.new_zeros((2, groups * channels), dtype=precise)
    means, variances = zip(
        *(
            torch.batch_norm_update_stats(
                sample.t()[None, :, :, None], kept_mean, kept_variance, 0.0
            )
            for sample in grouped
        ),
        strict=True,
    )
    of_groups = torch.stack(means).view(samples, groups, channels)
    mean = of_groups.mean(dim=1)
    within = torch.stack(variances).view(samples, groups, channels)
    return mean, (within + (of_groups - mean[:, None]).square()).mean(dim=1)


class _NormAct(torch.autograd.Function):
    """Keeps its input and output for the backward pass; the output has the activation's sign."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        mean, variance = _statistics(x)
        y, unused = torch.empty_like(x), mean.new_empty(0)
        for n in range(len(x)):
            torch.native_batch_norm(
                x[n : n + 1], weight, bias, mean[n], variance[n], False, 0.0, eps,
                out=(y[n : n + 1], unused, unused),
            )  # fmt: skip
        if slope != 1.0:
            F.leaky_relu_(y, slope)
        ctx.save_for_backward(x, y, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps, ctx.slope = eps, slope
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, y, weight, mean, inverse_std = ctx.saved_tensors
        layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
        grad = grad.contiguous(memory_format=layout)
        if ctx.slope != 1.0:  # y has the sign of the normalized value
            grad = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        grad_x = torch.empty_like(x)
        of_weight, of_bias = torch.empty_like(mean), torch.empty_like(mean)
        for n in range(len(x)):
            torch.ops.aten.native_batch_norm_backward.out(
                grad[n : n + 1], x[n : n + 1], weight, None, None, mean[n], inverse_std[n],
                True, ctx.eps, [True, True, True],
                out0=grad_x[n : n + 1], out1=of_weight[n], out2=of_bias[n],
            )  # fmt: skip
        return grad_x, of_weight.sum(dim=0), of_bias.sum(dim=0), None, None
