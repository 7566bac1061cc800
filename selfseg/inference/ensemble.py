"""Several trained networks as one: the mean of their logits; one at a time lies on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call


class MeanOfLogits(nn.Module):
    """Average the highest-resolution logits of networks with the same outputs.

    The networks stay in main memory. Their weights are copied to where the input is, those of one
    network after the other; `turn` keeps all of them there for a while if there is room. Nothing
    is copied for an input in main memory.

    Args:
        networks: At least one; usually the folds of one configuration.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self._keeps_all = False
        self._copies: dict[tuple[int, torch.device], dict[str, Tensor]] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, *spatial) to one tensor of float32 logits (b, k, *spatial)."""
        total: Tensor | None = None
        for index, network in enumerate(self.networks):
            logits: Tensor = functional_call(network, self._copy(index, x.device), (x,))[0]
            total = logits.to(torch.float32) if total is None else total + logits
        assert total is not None
        return (total / len(self.networks),)

    def begin(self, device: torch.device, room_bytes: float) -> None:
        """Bring the first network to a device, or all of them if they take at most `room_bytes`."""
        self._keeps_all = weights_bytes(self) <= room_bytes
        for index in range(len(self.networks) if self._keeps_all else 1):
            self._copy(index, device)

    def end(self) -> None:
        """Let go of what is on the device."""
        self._keeps_all = False
        self._copies.clear()

    def _copy(self, index: int, device: torch.device) -> dict[str, Tensor]:
        """Return a network's weights and buffers on a device."""
        key = (index, device)
        if key not in self._copies:
            if not self._keeps_all:
                self._copies.clear()
            self._copies[key] = {
                name: tensor.to(device) for name, tensor in _tensors(self.networks[index])
            }
        return self._copies[key]


def weights_bytes(network: nn.Module) -> int:
    """Return the size of a network's weights and buffers."""
    return sum(tensor.nbytes for _, tensor in _tensors(network))


@contextmanager
def turn(network: nn.Module, device: torch.device, room_bytes: float) -> Iterator[None]:
    """Let what a network averages lie on a device: all of it if there is room, else one at a time.

    Args:
        network: A network that holds a `MeanOfLogits`, or is one.
        device: Where it is going to compute.
        room_bytes: What all its weights may take there.
    """
    means = [module for module in network.modules() if isinstance(module, MeanOfLogits)]
    try:
        for mean in means:
            mean.begin(device, room_bytes)
        yield
    finally:
        for mean in means:
            mean.end()


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(network.named_parameters(), network.named_buffers())
