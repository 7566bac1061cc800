"""Give a network its input channels in another order than the data have them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ChannelOrder(nn.Module):
    """Let a network take channels in the order of the data.

    Args:
        network: Takes (b, c, *spatial).
        order: For each channel of the data, its index in what the network takes.
    """

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.taken = [list(order).index(index) for index in range(len(order))]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, *spatial) in the data's order to the network's outputs."""
        outputs: tuple[Tensor, ...] = self.network(x[:, self.taken])
        return outputs
