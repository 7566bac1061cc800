"""A weight that keeps the gradient of one term at a share of that of the others.

For a term L beside a loss R it is `share · EMA(‖∂R/∂z‖) / EMA(‖∂L/∂z‖)`, z the logits at full
resolution, so that measuring goes back through the loss only and not through the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfseg.records.loss_terms import ShapeCodeTerm

REST, OWN, WEIGHT, AGE = range(4)  # places in what is remembered


def balanced_weight(
    rest: Tensor,
    own: Tensor,
    logits: Tensor,
    options: ShapeCodeTerm,
    memory: dict[str, Tensor],
    key: str,
) -> float:
    """Return the weight of a term; measure it where that is due.

    It is measured at the first training step in which the term has a gradient, then after every
    `options.refresh` such steps; each time it waits for the device. Outside of training it stays.

    Args:
        rest: The loss without the term.
        own: The term.
        logits: What both are functions of.
        options: Share, averages and limit.
        memory: Float64 (4,) at `key`: both averages, the weight, steps since it was measured.
        key: Of the term.
    """
    known = memory.get(key)
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return 0.0 if known is None else float(known[WEIGHT])
    if known is not None:
        known = memory[key] = known.clone()
        known[AGE] += 1
        if known[AGE] < options.refresh:
            return float(known[WEIGHT])
    others, mine = _norm(rest, logits), _norm(own, logits)
    if not mine > 0 or not others < float("inf") or not mine < float("inf"):
        return 0.0 if known is None else float(known[WEIGHT])
    decay = options.average
    if known is not None:
        others = decay * float(known[REST]) + (1 - decay) * others
        mine = decay * float(known[OWN]) + (1 - decay) * mine
    weight = min(options.gradient_share * others / mine, options.most)
    memory[key] = torch.tensor([others, mine, weight, 0], dtype=torch.float64)
    return weight


def _norm(loss: Tensor, logits: Tensor) -> float:
    """Return the norm of a gradient; 0 where the loss does not depend on the logits."""
    if not loss.requires_grad:
        return 0.0
    found = torch.autograd.grad(loss, logits, retain_graph=True, materialize_grads=True)
    return float(found[0].norm())
