"""The 3D deeply supervised network of Dou et al. 2017, as its authors released it for the heart.

No skip connections; side heads stand on the encoder and give logits at full resolution.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from selfseg.networks.training_heads import TrainingHeads
from selfseg.records.network import DSN3D

INITIAL_STD = 0.01


class DeeplySupervised3D(nn.Module):
    """Stages of 3³ convolutions with batch norm and ReLU, max-pooled between; 4³ deconvolutions.

    Args:
        options: Widths and convolutions of the stages.
        channels: Input channels.
        outputs: Output channels (labels with background).
    """

    training_heads: TrainingHeads | None

    def __init__(self, options: DSN3D, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.training_heads = None
        widths = options.features
        self.encoder = nn.ModuleList(
            _stage(before, width, convs)
            for before, width, convs in zip(
                (channels, *widths[:-1]), widths, options.convs, strict=True
            )
        )
        self.pool = nn.MaxPool3d(2)
        self.decoder = _ascent(widths[::-1], bias=True)
        self.head = nn.Conv3d(widths[0], outputs, 1)
        # From the deepest stage but the bottleneck to the first that is not at full resolution.
        self.sides = nn.ModuleList(
            nn.Sequential(
                *_ascent((*widths[stage:0:-1], widths[0]), bias=False),
                nn.Conv3d(widths[0], outputs, 1),
            )
            for stage in range(len(widths) - 2, 0, -1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (b, k, *D): the main ones, in training then the sides', deep ones first."""
        maps = []
        for stage, block in enumerate(self.encoder):
            x = block(self.pool(x) if stage else x)
            maps.append(x)
        decoded = self.decoder(x)
        main = self.head(decoded)
        if not self.training:
            return (main,)
        deep = reversed(maps[1:-1])
        outputs: tuple[Tensor, ...] = (
            main,
            *(side(map_) for side, map_ in zip(self.sides, deep, strict=True)),
        )
        if self.training_heads is not None:
            outputs = self.training_heads(outputs, decoded, ())
        return outputs


def _stage(before: int, width: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convs):
        layers += [
            nn.Conv3d(width if number else before, width, 3, padding=1),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _ascent(widths: tuple[int, ...], *, bias: bool) -> nn.Sequential:
    """Return deconvolutions that each double the resolution, without activations."""
    return nn.Sequential(
        *(
            nn.ConvTranspose3d(before, after, 4, 2, 1, bias=bias)
            for before, after in pairwise(widths)
        )
    )
