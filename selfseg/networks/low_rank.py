"""Updates of low rank: a kernel W is used as W + U·D, and only U and D learn (Hu et al. 2021).

D (rank, in·k) starts at random and U (out, rank) at 0, so that training starts from W itself. While
a network trains they are part of it; the weights that are written have them added in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

PREFIX = "low_rank."
UP, DOWN = ".up", ".down"


class LowRankUpdates(nn.ModuleDict):
    """The updates of some kernels of a network; names have '/' for '.'.

    Args:
        network: Whose kernels they are for.
        names: Of these kernels, (out, in, *k).
        rank: At most; never more than a kernel's own.
    """

    def __init__(self, network: nn.Module, names: Collection[str], rank: int) -> None:
        kernels = {n: p for n, p in network.named_parameters() if n in names}
        super().__init__({n.replace(".", "/"): _Update(p, rank) for n, p in kernels.items()})


class _Update(nn.Module):
    def __init__(self, kernel: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = len(kernel), kernel[0].numel()
        rank = min(rank, rows, columns)
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))


class UpdatedNetwork(nn.Module):
    """A network that computes with its updates added to its kernels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the network gives; gradients reach the updates."""
        return call_with(self.network, {}, x)


def call_with(network: nn.Module, others: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """Return what a network gives with its updates added in, and others in place of some weights.

    Args:
        network: It may have updates of low rank.
        others: By the names of those that they stand in for.
        x: Input of the network.
    """
    weights = with_updates(dict(network.named_parameters())) | dict(others)
    outputs: tuple[Tensor, ...] = functional_call(network, weights, (x,))
    return outputs


def updated(network: nn.Module) -> nn.Module:
    """Return what computes with a network's updates of low rank; itself if it has none."""
    return UpdatedNetwork(network) if hasattr(network, PREFIX.rstrip(".")) else network


def with_updates(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with all updates of low rank added in, and without these."""
    plain = {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
    for name, up in weights.items():
        if name.startswith(PREFIX) and name.endswith(UP):
            stem = name.removesuffix(UP)
            kernel = stem.removeprefix(PREFIX).replace("/", ".")
            update = (up @ weights[stem + DOWN]).view_as(plain[kernel])
            plain[kernel] = plain[kernel] + update
    return plain
