"""Several trained networks as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MeanOfLogits(nn.Module):
    """Average the highest-resolution logits of networks with the same outputs.

    Args:
        networks: At least one; usually the folds of one configuration.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, *spatial) to one tensor of float32 logits (b, k, *spatial)."""
        first, *others = self.networks
        total: Tensor = first(x)[0].to(torch.float32)
        for network in others:
            total = total + network(x)[0]
        return (total / len(self.networks),)
