"""U-Nets with a plain or a residual encoder and deeply supervised decoder (Isensee et al. 2021)."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn

from selfseg.networks.blocks import (
    ConvBlock,
    ResidualBlock,
    conv_stage,
    convolution,
    initialize,
    transposed_convolution,
)
from selfseg.networks.training_heads import TrainingHeads
from selfseg.records.network import PlainNetwork, ResidualUNet, UNet


def build_encoder(options: PlainNetwork, channels: int) -> nn.ModuleList:
    """Return the encoder stages, full resolution first."""
    widths = (channels, *options.features)
    rows = list(zip(options.kernels, options.strides, strict=True))
    match options:
        case UNet():
            return nn.ModuleList(
                conv_stage(widths[i], widths[i + 1], kernel, stride, options.convs_encoder[i])
                for i, (kernel, stride) in enumerate(rows)
            )
        case ResidualUNet():
            stages = []
            ones = (1,) * len(options.kernels[0])
            for i, (kernel, stride) in enumerate(rows):
                before, width = (widths[i] if i else widths[1]), widths[i + 1]
                blocks: list[nn.Module] = [ResidualBlock(before, width, kernel, stride)]
                for _ in range(options.blocks_encoder[i] - 1):
                    blocks.append(ResidualBlock(width, width, kernel, ones))
                if i == 0:  # the stem
                    blocks.insert(0, ConvBlock(channels, width, kernel, ones))
                stages.append(nn.Sequential(*blocks))
            return nn.ModuleList(stages)
        case _:
            assert_never(options)


class EncoderDecoder(nn.Module):
    """Encoder with skips to a decoder; a 1×1 head at every decoder stage.

    `second` may see the input and what the encoder makes of it, and change what the decoder gets.

    Args:
        options: Widths, kernels, strides and depth.
        channels: Input channels.
        outputs: Output channels (labels with background).
    """

    training_heads: TrainingHeads | None
    second: nn.Module | None

    def __init__(self, options: PlainNetwork, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.training_heads, self.second = None, None
        self.deep_supervision = options.deep_supervision
        features, ones = options.features, (1,) * len(options.strides[0])
        self.encoder = build_encoder(options, channels)
        self.upsample, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.heads = nn.ModuleList()
        for stage in reversed(range(len(features) - 1)):
            width, kernel = features[stage], options.kernels[stage]
            self.upsample.append(
                transposed_convolution(features[stage + 1], width, options.strides[stage + 1])
            )
            convs = options.convs_decoder[stage]
            self.decoder.append(conv_stage(2 * width, width, kernel, ones, convs))
            self.heads.append(convolution(width, outputs, ones, ones))
        initialize(self)

    def forward(self, x_bcD: Tensor) -> tuple[Tensor, ...]:  # noqa: N803
        """Return logits (b, k, D), full resolution first; one entry in evaluation mode.

        In training those of `training_heads` are added.
        """
        skips, deeper = [], x_bcD
        for stage in self.encoder:
            deeper = stage(deeper)
            skips.append(deeper)
        if self.second is not None:
            skips = list(self.second(x_bcD, skips))
        encoded = tuple(skips)
        out = skips.pop()
        every = self.training and self.deep_supervision
        logits: list[Tensor] = []
        last = len(self.decoder) - 1
        for depth, (up, stage, head) in enumerate(
            zip(self.upsample, self.decoder, self.heads, strict=True)
        ):
            out = stage(torch.cat((up(out), skips.pop()), dim=1))
            if every or depth == last:
                logits.append(head(out))
        outputs = tuple(reversed(logits))
        if self.training and self.training_heads is not None:
            outputs = self.training_heads(outputs, out, encoded)
        return outputs
