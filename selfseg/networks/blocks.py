"""Blocks that the networks share: convolution, norm and activation; the residual block; heads.

Letters in shapes: b batch, c channels, k classes; D spatial axes (two or three).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from selfseg.networks.norm_act import InstanceNormLeakyReLU

NEGATIVE_SLOPE = 0.01

Axes = Sequence[int]


def convolution(
    before: int, after: int, kernel: Axes, stride: Axes, *, bias: bool = True
) -> nn.Module:
    """Return a 2D or 3D convolution, by the length of `kernel`, that keeps the size at stride 1."""
    kind = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    padding = tuple((k - 1) // 2 for k in kernel)
    return kind(before, after, tuple(kernel), tuple(stride), padding, bias=bias)  # type: ignore[arg-type]


def transposed_convolution(before: int, after: int, stride: Axes) -> nn.Module:
    """Return the convolution that undoes a stride: kernel = stride."""
    kind = nn.ConvTranspose2d if len(stride) == 2 else nn.ConvTranspose3d
    return kind(before, after, tuple(stride), tuple(stride))  # type: ignore[arg-type]


class ConvBlock(nn.Module):
    """Convolution, instance norm, leaky ReLU (`activate=False` leaves it out)."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: Axes,
        stride: Axes,
        *,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(before, after, kernel, stride, bias=bias)
        self.norm = InstanceNormLeakyReLU(after, slope=NEGATIVE_SLOPE if activate else 1.0)

    def forward(self, x_bcD: Tensor) -> Tensor:  # noqa: N803
        """Map (b, before, D) to (b, after, D / stride)."""
        out: Tensor = self.norm(self.conv(x_bcD))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions plus a skip; the skip pools and projects where the block changes shape."""

    def __init__(self, before: int, after: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        dims = len(kernel)
        ones = (1,) * dims
        self.first = ConvBlock(before, after, kernel, stride)
        self.second = ConvBlock(after, after, kernel, ones, activate=False)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        skip: list[nn.Module] = []
        if prod(stride) > 1:
            pool = nn.AvgPool2d if dims == 2 else nn.AvgPool3d
            skip.append(pool(tuple(stride), tuple(stride)))  # type: ignore[arg-type]
        if before != after:
            skip.append(ConvBlock(before, after, ones, ones, bias=False, activate=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x_bcD: Tensor) -> Tensor:  # noqa: N803
        """Map (b, before, D) to (b, after, D / stride)."""
        out: Tensor = self.activation(self.second(self.first(x_bcD)) + self.skip(x_bcD))
        return out


def conv_stage(before: int, after: int, kernel: Axes, stride: Axes, count: int) -> nn.Sequential:
    """Return `count` blocks; the first one carries the stride and the change of width."""
    ones = (1,) * len(kernel)
    return nn.Sequential(
        ConvBlock(before, after, kernel, stride),
        *(ConvBlock(after, after, kernel, ones) for _ in range(count - 1)),
    )


def initialize(network: nn.Module) -> None:
    """Draw weights as nnU-Net does: Kaiming-normal, zero bias; residual branches start at zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.norm.weight)
