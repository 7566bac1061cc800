"""The previous stage's segmentation as input channels of a network, one a foreground label."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def one_hot(label: Tensor, labels: int) -> Tensor:
    """Return float32 channels of the labels 1 … `labels`: (b, 1, *spatial) → (b, labels, …)."""
    values = torch.arange(1, labels + 1, device=label.device, dtype=label.dtype)
    return (label == values.view(1, -1, *(1,) * (label.ndim - 2))).to(torch.float32)


class OneHotInput(nn.Module):
    """Lets a network take the previous stage's label indices as one last channel.

    So an image in memory grows by one channel, however many labels there are; mirroring and
    padding with zeros (background) need no special case.

    Args:
        network: Takes the image's channels and one for each label.
        labels: Foreground labels.
    """

    def __init__(self, network: nn.Module, labels: int) -> None:
        super().__init__()
        self.network = network
        self.labels = labels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c + 1, *spatial) to the network's outputs for (b, c + labels, *spatial)."""
        full = torch.cat([x[:, :-1], one_hot(x[:, -1:], self.labels)], dim=1)
        layout = FORMATS[x.ndim]
        if x.is_contiguous(memory_format=layout):
            full = full.contiguous(memory_format=layout)
        outputs: tuple[Tensor, ...] = self.network(full)
        return outputs
