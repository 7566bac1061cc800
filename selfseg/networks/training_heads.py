"""Heads that only training uses: for signed distances, and on encoder stages.

They belong to the network while it trains, so optimizer, average and checkpoint hold them; the
weights that are written for prediction leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfseg.networks.blocks import Axes, convolution, initialize
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import SignedDistanceTerm

PREFIX, STREAM = "training_heads.", "auxiliary_stream."
WRAPPERS = {"module", "_orig_mod"}  # what parallel and compiled networks put before names


@dataclass(frozen=True)
class HeadCounts:
    """How many there are: channels of signed distances, and encoder stages with a head."""

    distances: int = 0
    sides: int = 0


NO_HEADS = HeadCounts()


def needed_heads(loss: Loss, targets: Targets) -> HeadCounts:
    """Return which heads a loss needs."""
    terms = [term for term in loss.terms if isinstance(term, SignedDistanceTerm)]
    channels = len(terms[0].labels or targets.members) if terms else 0
    return HeadCounts(distances=channels, sides=loss.encoder_heads)


class TrainingHeads(nn.Module):
    """A 1×1 head for distances on what the main head sees, and heads on encoder stages.

    Args:
        counts: How many.
        features: Widths of the encoder stages, full resolution first.
        strides: Of these stages.
        width: Channels of what the main head sees.
        dims: Its spatial axes.
        outputs: Channels of the logits.
    """

    def __init__(
        self,
        counts: HeadCounts,
        *,
        features: Sequence[int],
        strides: Sequence[Axes],
        width: int,
        dims: int,
        outputs: int,
    ) -> None:
        super().__init__()
        ones = (1,) * dims
        count = counts.distances
        self.distance = convolution(width, count, ones, ones) if count else None
        self.sides = nn.ModuleList(
            _side_head(features, strides, stage, outputs) for stage in range(counts.sides, 0, -1)
        )
        initialize(self)

    def forward(
        self, logits: tuple[Tensor, ...], decoded: Tensor, encoded: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Add the outputs of the heads to those of the network.

        Args:
            logits: Of the network, full resolution first.
            decoded: What the main head sees.
            encoded: Outputs of the encoder stages, full resolution first.

        Returns:
            The logits, distances (before tanh) as further channels of the first, then those of the
            encoder stages at full resolution, the deepest first.
        """
        first = logits[0]
        if self.distance is not None:
            distances = self.distance(decoded)
            first = torch.cat((first, distances.reshape(len(first), -1, *first.shape[2:])), dim=1)
        deep = reversed(encoded[1 : len(self.sides) + 1])
        sides = (side(map_) for side, map_ in zip(self.sides, deep, strict=True))
        return (first, *logits[1:], *sides)


def exported(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without those of heads and streams that only training uses.

    Names must be those of the bare network: behind the prefix of a wrapper (compiled, parallel)
    heads would not be found, and no network could read the weights.
    """
    wrapped = [name for name in weights if WRAPPERS & set(name.split("."))]
    assert not wrapped, f"weights of a wrapped network: {wrapped[0]}"
    return {name: value for name, value in weights.items() if not name.startswith((PREFIX, STREAM))}


def _side_head(
    features: Sequence[int], strides: Sequence[Axes], stage: int, outputs: int
) -> nn.Sequential:
    """Return deconvolutions up to full resolution, and a head (Dou et al. 2017).

    There is no activation between them; kernels are twice the stride, as there 4 at a stride of 2.
    """
    ones = (1,) * len(strides[0])
    layers = [_up(features[at], features[at - 1], strides[at]) for at in range(stage, 0, -1)]
    return nn.Sequential(*layers, convolution(features[0], outputs, ones, ones))


def _up(before: int, after: int, stride: Axes) -> nn.Module:
    kind = nn.ConvTranspose2d if len(stride) == 2 else nn.ConvTranspose3d
    padding = tuple(step // 2 for step in stride)
    kernel = tuple(step + 2 * pad for step, pad in zip(stride, padding, strict=True))
    return kind(before, after, kernel, tuple(stride), padding, bias=False)  # type: ignore[arg-type]
