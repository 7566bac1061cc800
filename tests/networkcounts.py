"""Numbers counted in a built network."""

from __future__ import annotations

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def count_outputs_of_convolutions(network: nn.Module, image: torch.Tensor) -> int:
    """Return how many values all convolutions of a network put out for an image."""
    total = 0

    def add(_: nn.Module, __: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel()

    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(add)
    network(image)
    return total
