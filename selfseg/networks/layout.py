"""Memory formats: which one has the channels innermost, and bringing a network into one."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}  # by spatial axes


def set_layout(network: nn.Module, layout: torch.memory_format) -> None:
    """Bring the weights into a memory format; 2D and 3D convolutions may be mixed."""
    for parameter in network.parameters():
        axes = parameter.dim() - 2
        if axes in CHANNELS_LAST:
            planar = layout == torch.contiguous_format
            wanted = torch.contiguous_format if planar else CHANNELS_LAST[axes]
            parameter.data = parameter.data.contiguous(memory_format=wanted)
