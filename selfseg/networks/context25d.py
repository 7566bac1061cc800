"""2.5D network: slices around a target in, the target segmented (after CN114723669A; our reading).

The encoder convolves in 3D but pools in plane only. Attention collapses each skip and the
bottleneck to one slice, an atrous pyramid (ASPP) widens the view there, and a 2D decoder follows.

Letters in shapes: b batch, c channels, k classes, s slices; h, w in plane.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.networks.blocks import NEGATIVE_SLOPE, ConvBlock, convolution, initialize
from selfseg.networks.norm_act import InstanceNormLeakyReLU
from selfseg.networks.training_heads import TrainingHeads
from selfseg.records.network import ContextUNet

CENTER_BIAS = 2.0  # softmax weight of the middle slice at the start: e² times that of another

Axes = Sequence[int]


class DepthwiseConv(nn.Module):
    """Convolution of every channel on its own; keeps the size at stride 1.

    In 3D it is a sum of 2D convolutions of shifted slices: torch's grouped 3D convolution takes
    twice as long on a CPU. Folding slices into the batch costs nothing in channels-last memory.

    Args:
        channels: Number of channels.
        kernel: Two or three odd sizes; in-plane size first if two.
        stride: In plane (y, x).
        dilation: In plane.
    """

    def __init__(
        self, channels: int, kernel: Axes, stride: Axes = (1, 1), *, dilation: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.dilation = tuple(stride), dilation
        self.padding = tuple(dilation * (size - 1) // 2 for size in kernel[-2:])
        self.weight = nn.Parameter(torch.empty(channels, 1, *kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) or (b, c, s, h, w) to the same with h and w over the stride."""
        if x.dim() == 4:
            return self._in_plane(x, self.weight)
        slices, depth = x.shape[2], self.weight.shape[2]
        flat = x.transpose(1, 2).flatten(0, 1)
        total: Tensor | None = None
        # The middle tap first: it reaches every slice and is what the others are added to.
        for tap in sorted(range(depth), key=lambda tap: abs(tap - depth // 2)):
            shift = tap - depth // 2
            if abs(shift) >= slices:
                continue
            part = self._in_plane(flat, self.weight[:, :, tap])
            part = part.view(len(x), slices, *part.shape[1:]).transpose(1, 2)
            if total is None:
                total = part
            else:
                here = slice(max(-shift, 0), slices - max(shift, 0))
                there = slice(max(shift, 0), slices - max(-shift, 0))
                total[:, :, here] += part[:, :, there]
        assert total is not None
        return total

    def _in_plane(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(
            x, weight, None, self.stride, self.padding, self.dilation, groups=len(weight)
        )


class SeparableBlock(nn.Module):
    """Depthwise then pointwise convolution, norm, activation; a skip where shapes allow it.

    No norm or activation stands between the two convolutions (as in Xception): together they are
    one convolution of low rank. `separable=False` makes it an ordinary one.
    """

    def __init__(
        self, before: int, after: int, kernel: Axes, stride: Axes = (1, 1), *, separable: bool
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel)
        self.has_skip = before == after and max(stride) == 1
        self.conv: nn.Module
        if separable:
            self.conv = nn.Sequential(
                DepthwiseConv(before, kernel, stride), convolution(before, after, ones, ones)
            )
        else:
            self.conv = convolution(before, after, kernel, (*ones[2:], *stride))
        self.norm = InstanceNormLeakyReLU(after, slope=NEGATIVE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, before, [s,] h, w) to (b, after, [s,] h / stride, w / stride)."""
        out: Tensor = self.norm(self.conv(x))
        return x + out if self.has_skip else out


class SliceAttention(nn.Module):
    """Collapse slices: Σ_s a_s·x_s per voxel, a = softmax over slices of a linear score.

    At the start the scores are 0 but for a bias on the middle slice.
    """

    def __init__(self, channels: int, slices: int) -> None:
        super().__init__()
        self.score = nn.Conv3d(channels, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(slices))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start close to taking the middle slice."""
        nn.init.zeros_(self.score.weight)
        self.bias.zero_()[len(self.bias) // 2] = CENTER_BIAS

    def weights(self, x: Tensor) -> Tensor:
        """Return the weight of each slice in each voxel, (b, 1, s, h, w)."""
        scores: Tensor = self.score(x) + self.bias.view(-1, 1, 1)
        return scores.softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, s, h, w) to (b, c, h, w)."""
        if x.shape[2] == 1:
            return x.squeeze(2)
        collapsed = (x * self.weights(x)).sum(dim=2)
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            collapsed = collapsed.contiguous(memory_format=torch.channels_last)
        return collapsed


class AtrousPyramid(nn.Module):
    """ASPP (Chen et al. 2017): 1×1, dilated 3×3 and image-level branches, joined by a 1×1."""

    def __init__(self, before: int, after: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvBlock(before, after, (1, 1), (1, 1))])
        for rate in rates:
            self.branches.append(
                nn.Sequential(
                    DepthwiseConv(before, (3, 3), dilation=rate),
                    ConvBlock(before, after, (1, 1), (1, 1)),
                )
            )
        # One value a channel: a norm over space would erase it.
        self.whole = nn.Conv2d(before, after, 1)
        self.join = ConvBlock((len(self.branches) + 1) * after, after, (1, 1), (1, 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, before, h, w) to (b, after, h, w)."""
        parts = [branch(x) for branch in self.branches]
        whole = F.leaky_relu(self.whole(x.mean((2, 3), keepdim=True)), NEGATIVE_SLOPE)
        out: Tensor = self.join(torch.cat([*parts, whole.expand_as(parts[0])], dim=1))
        dropped: Tensor = self.dropout(out)
        return dropped


class ContextNetwork(nn.Module):
    """The whole network; its output has a slice axis of length one.

    Args:
        options: Widths, strides, depth, slices.
        channels: Input channels.
        outputs: Output channels.
    """

    training_heads: TrainingHeads | None

    def __init__(self, options: ContextUNet, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.training_heads = None
        features, last = options.features, len(options.features) - 1
        self.encoder = nn.ModuleList(_encoder_stages(options, channels))
        self.collapse = nn.ModuleList(SliceAttention(n, options.slices) for n in features)
        self.pyramid = AtrousPyramid(
            features[-1], options.aspp_features, options.aspp_rates, options.dropout
        )
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleDict()
        width = options.aspp_features
        for stage in reversed(range(last)):
            blocks = [
                SeparableBlock(
                    features[stage] if number else width + features[stage],
                    features[stage],
                    (3, 3),
                    separable=options.separable,
                )
                for number in range(options.blocks_decoder[stage])
            ]
            self.decoder.append(nn.Sequential(*blocks))
            width = features[stage]
            if stage < options.supervised:
                self.heads[str(stage)] = nn.Conv2d(width, outputs, 1)
        initialize(self)
        for collapse in self.collapse:
            assert isinstance(collapse, SliceAttention)
            collapse.reset()

    def forward(self, x_bcshw: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, s, h, w) to logits (b, k, 1, h, w), full resolution first.

        Coarser ones follow in training mode only.
        """
        skips = []
        for stage, collapse in zip(self.encoder, self.collapse, strict=True):
            x_bcshw = stage(x_bcshw)
            skips.append(collapse(x_bcshw))
        out = self.pyramid(skips.pop())
        logits: list[Tensor] = []
        for blocks in self.decoder:
            skip = skips.pop()
            out = F.interpolate(out, skip.shape[2:], mode="bilinear", align_corners=False)
            out = blocks(torch.cat((out, skip), dim=1))
            depth = str(len(skips))
            if depth in self.heads and (self.training or depth == "0"):
                logits.append(self.heads[depth](out).unsqueeze(2))
        outputs = tuple(reversed(logits))
        if self.training and self.training_heads is not None:
            outputs = self.training_heads(outputs, out, ())
        return outputs


def depth_kernel(stage: int, slices: int) -> int:
    """Return the kernel across slices: none at full resolution, where a slice has noise most."""
    return 3 if stage and slices > 1 else 1


def _encoder_stages(options: ContextUNet, channels: int) -> list[nn.Module]:
    """Return the encoder, full resolution first; its first convolution is an ordinary one."""
    stages: list[nn.Module] = []
    before = channels
    for stage, (width, stride) in enumerate(zip(options.features, options.strides, strict=True)):
        kernel = (depth_kernel(stage, options.slices), 3, 3)
        blocks: list[nn.Module] = []
        for number in range(options.blocks_encoder[stage]):
            if stage == number == 0:
                blocks.append(ConvBlock(before, width, kernel, (1, 1, 1)))
            else:
                step = (1, 1) if number else stride[1:]
                blocks.append(
                    SeparableBlock(before, width, kernel, step, separable=options.separable)
                )
            before = width
        stages.append(nn.Sequential(*blocks))
    return stages
