"""The optimizer of a training, and the momentum that a fused one starts with."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn

from selfseg.records.optimization import SGD, AdamW, Optimizer
from selfseg.training.tuning import Tuning


def takes_fused_steps(device: torch.device) -> bool:
    """Tell whether the optimizer of a device is one kernel: on CUDA."""
    return device.type == "cuda"


def build_optimizer(
    options: Optimizer, network: nn.Module, tuning: Tuning, *, fused: bool
) -> torch.optim.Optimizer:
    """Return the optimizer over all weights that learn; a fused one is one kernel."""
    weights = tuning.groups(network)
    match options:
        case SGD():
            optimizer = torch.optim.SGD(
                weights,
                lr=options.learning_rate,
                momentum=options.momentum,
                nesterov=options.nesterov,
                weight_decay=options.weight_decay,
                fused=fused,
            )
            start_momentum_(optimizer)
            return optimizer
        case AdamW():
            return torch.optim.AdamW(
                weights,
                lr=options.learning_rate,
                weight_decay=options.weight_decay,
                fused=fused,
            )
        case _:
            assert_never(options)


def start_momentum_(optimizer: torch.optim.Optimizer) -> None:
    """Give weights without momentum one of 0, where a fused optimizer has any.

    Its first step takes memory as it finds it, and keeps that if float16 overflows; nor does it
    step weights that have momentum together with those that begin later.
    """
    for group in optimizer.param_groups:
        if group["fused"] and group.get("momentum", 0.0):
            for weight in group["params"]:
                optimizer.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
