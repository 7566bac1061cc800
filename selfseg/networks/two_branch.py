"""The 2D network of Yan et al. 2018: a U-Net whose last layers are there twice, for two losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.records.network import TwoBranch

DROPPED_STAGES = 2  # the deepest
SMALLEST = 1e-7  # probability whose logarithm is taken


class TwoBranchNetwork(nn.Module):
    """Convolutions with ReLU, max-pooling, 2×2 deconvolutions with ReLU and skips; no norm.

    Args:
        options: Layers.
        channels: Input channels.
        outputs: Output channels (labels with background).
    """

    def __init__(self, options: TwoBranch, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.merge: Literal["product", "geometric"] = options.merge
        widths, count = options.features, len(options.encoder)
        self.encoder = nn.ModuleList(
            _layers(before, layers, dropout=options.dropout * (stage >= count - DROPPED_STAGES))
            for stage, (before, layers) in enumerate(
                zip((channels, *widths[:-1]), options.encoder, strict=True)
            )
        )
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = widths[-1]
        for stage, width in enumerate(options.ups):
            self.ups.append(nn.Sequential(nn.ConvTranspose2d(before, width, 2, 2), nn.ReLU(True)))
            before = width + widths[-2 - stage]
            if stage < len(options.decoder):
                self.decoder.append(_layers(before, options.decoder[stage]))
                before = options.decoder[stage][-1][1]
        self.branches = nn.ModuleList(
            nn.Sequential(
                _layers(before, options.branch), nn.Conv2d(options.branch[-1][1], outputs, 1)
            )
            for _ in range(2)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (b, k, y, x): of both branches in training, else one that merges them."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(F.max_pool2d(skips[-1], 2) if skips else x)
            skips.append(x)
        skips.pop()
        for number, up in enumerate(self.ups):
            x = torch.cat((up(x), skips.pop()), dim=1)
            if number < len(self.decoder):
                x = self.decoder[number](x)
        segments, pixels = (branch(x) for branch in self.branches)
        return (segments, pixels) if self.training else (merged(segments, pixels, self.merge),)


def merged(first: Tensor, second: Tensor, how: Literal["product", "geometric"]) -> Tensor:
    """Return logits whose softmax has the product of two foreground probabilities, or its root.

    The background has the rest.
    """
    both = first.float().softmax(dim=1)[:, 1:] * second.float().softmax(dim=1)[:, 1:]
    if how == "geometric":
        both = both.sqrt()
    whole = torch.cat((1 - both.sum(dim=1, keepdim=True), both), dim=1)
    return whole.clamp_min(SMALLEST).log()


def _layers(
    before: int, layers: Sequence[tuple[int, int]], *, dropout: float = 0.0
) -> nn.Sequential:
    parts: list[nn.Module] = []
    for kernel, width in layers:
        parts += [nn.Conv2d(before, width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
        before = width
    if dropout:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts)
