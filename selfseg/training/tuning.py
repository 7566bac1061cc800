"""Strategies of training a network on that has another one's weights: what learns, when, how fast.

FineTune is the published recipe of nnU-Net's fine-tuning; L2SP is that of Li et al. 2018; LowRank
that of Hu et al. 2021, on the kernels of convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from selfseg.networks.counterparts import ENCODER, is_head
from selfseg.networks.low_rank import LowRankUpdates
from selfseg.records.network import Network
from selfseg.records.optimization import Poly, Recipe, Schedule, WarmupCosine, WarmupPoly
from selfseg.records.transfer import (
    L2SP,
    FineTune,
    FrozenEncoder,
    HeadFirst,
    LowRank,
    Transfer,
    TransferReport,
)

RATE = "rate"  # key of a parameter group: factor on the learning rate


@dataclass(frozen=True)
class Tuning:
    """How the weights of a network learn, by name; by default all alike.

    Attributes:
        frozen: Never change.
        late, late_from: Do not change before this share of the run is over.
        rates: Factors on the learning rate other than 1.
        anchor: Values that weights are pulled to, in place of their weight decay.
        alpha: Strength of the pull: α·(w − anchor) joins the gradient.
        still: Modules that stay in evaluation mode, as they are frozen.
    """

    frozen: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    late_from: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    anchor: Mapping[str, Tensor] = field(default_factory=dict)
    alpha: float = 0.0
    still: tuple[nn.Module, ...] = ()

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Return torch's parameter groups: weights of one rate and decay each, frozen ones none."""
        members: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, weight in network.named_parameters():
            if name not in self.frozen:
                kind = (self.rates.get(name, 1.0), name in self.anchor)
                members.setdefault(kind, []).append(weight)
        return [
            {"params": weights, RATE: rate} | ({"weight_decay": 0.0} if pulled else {})
            for (rate, pulled), weights in members.items()
        ]

    def release_(self, network: nn.Module, progress: float) -> None:
        """Let the late weights learn from their share of the run on, and not before."""
        if not self.late:
            return
        learns = progress >= self.late_from
        for name, weight in network.named_parameters():
            if name in self.late and weight.requires_grad != learns:
                weight.requires_grad_(learns)
                weight.grad = None

    @torch.no_grad()
    def pull_(self, network: nn.Module) -> None:
        """Add to the gradients what pulls weights to their anchors."""
        for name, weight in network.named_parameters():
            if name in self.anchor and weight.grad is not None:
                weight.grad.add_(weight - self.anchor[name].to(weight.device), alpha=self.alpha)

    def train_(self, network: nn.Module) -> None:
        """Bring a network into training mode, but for what is frozen."""
        network.train()
        for module in self.still:
            module.eval()


def learn_alike(network: nn.Module) -> Tuning:
    """Leave a network with its random weights: all learn alike."""
    return Tuning()


def prepare_(
    network: nn.Module, options: Network, strategy: Transfer, report: TransferReport
) -> Tuning:
    """Make a network with mapped weights ready for a strategy: freeze, add updates.

    Args:
        network: With the weights that `report` tells of.
        options: What it was built from.
        strategy: How it is trained on.
        report: Which of its weights are loaded, adapted, new.
    """
    # What the network itself never trains, such as a frozen second encoder, stays as it is.
    names = [name for name, weight in network.named_parameters() if weight.requires_grad]
    fresh = {note.name for note in report.fresh}
    new = {name for name in names if name in fresh or is_head(name, options)}
    old = [name for name in names if name not in new]
    encoder = [name for name in old if name.startswith(ENCODER)]
    match strategy:
        case FineTune():
            return Tuning()
        case HeadFirst():
            rates = dict.fromkeys(encoder, strategy.encoder_rate)
            return Tuning(late=frozenset(old), late_from=strategy.head_share, rates=rates)
        case FrozenEncoder():
            return _freeze_(network, set(encoder) & set(report.loaded))
        case L2SP():
            weights = dict(network.named_parameters())
            anchor = {name: weights[name].detach().clone() for name in old}
            return Tuning(anchor=anchor, alpha=strategy.alpha)
        case LowRank():
            tuning = _freeze_(network, old)
            kernels = [n for n, p in network.named_parameters() if n in set(old) and p.dim() > 2]
            network.low_rank = LowRankUpdates(network, kernels, strategy.rank)
            return tuning
        case _:
            assert_never(strategy)


def transfer_recipe(recipe: Recipe, strategy: Transfer, *, is_short: bool) -> Recipe:
    """Return a recipe with the strategy's learning rate and warm-up.

    The rate changes every step: by epoch, a short run would lose its first one.
    """
    factor = strategy.short_rate if is_short else strategy.rate
    rate = recipe.optimizer.learning_rate * factor
    match recipe.schedule:
        case Poly(exponent=exponent) | WarmupPoly(exponent=exponent):
            schedule: Schedule = WarmupPoly(warmup=strategy.warmup, exponent=exponent)
        case WarmupCosine():
            schedule = WarmupCosine(warmup=strategy.warmup)
        case _:
            assert_never(recipe.schedule)
    changes = {
        "optimizer": recipe.optimizer.model_copy(update={"learning_rate": rate}),
        "schedule": schedule,
        "schedule_per_epoch": False,
    }
    return recipe.model_copy(update=changes)


def _freeze_(network: nn.Module, names: Collection[str]) -> Tuning:
    for name, weight in network.named_parameters():
        if name in names:
            weight.requires_grad_(False)
    return Tuning(frozen=frozenset(names), still=tuple(_still(network)))


def _still(network: nn.Module) -> Iterator[nn.Module]:
    """Yield modules whose running statistics would change although all their weights are frozen."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        has_statistics = any(True for _ in module.buffers(recurse=False))
        if own and has_statistics and not any(weight.requires_grad for weight in own):
            yield module
