"""One optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from selfseg.loading.batches import Batch
from selfseg.networks.low_rank import with_updates
from selfseg.networks.training_heads import exported
from selfseg.training.state import TrainState
from selfseg.training.trials import mixed_precision
from selfseg.training.tuning import RATE


def train_step(
    state: TrainState,
    batch: Batch,
    loss: nn.Module,
    *,
    learning_rate: float,
    gradient_clip: float,
    borrowed: Callable[[TrainState], Tensor] | None = None,
) -> Tensor:
    """Update the weights once; return the loss, still on the device (reading it would wait).

    `borrowed` gives what an auxiliary data set adds to it.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate * group.get(RATE, 1.0)
    state.optimizer.zero_grad(set_to_none=True)
    image = batch.image.contiguous(memory_format=state.layout)
    with mixed_precision(state.device, state.dtype):
        value: Tensor = loss(state.forward(image), batch.label, batch.maps)
        if borrowed is not None:
            value = value + borrowed(state)
    state.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    state.tuning.pull_(state.network)
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), gradient_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    update_average(state)
    return value.detach()


@torch.no_grad()
def update_average(state: TrainState) -> None:
    """Move the average towards the weights; early on faster, so that the start is forgotten."""
    if not state.average:
        return
    decay = min(state.recipe.average_decay, (1 + state.step) / (10 + state.step))
    weights = dict(state.network.named_parameters())
    torch._foreach_lerp_(
        list(state.average.values()), [weights[name] for name in state.average], 1 - decay
    )


@contextmanager
def averaged(state: TrainState) -> Iterator[None]:
    """Let the network have its averaged weights for a while, then its own again, bit for bit."""
    weights = {n: p for n, p in state.network.named_parameters() if n in state.average}
    with torch.no_grad():
        kept = {name: weight.clone() for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                weight.copy_(state.average[name])
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])


def final_weights(state: TrainState) -> dict[str, Tensor]:
    """Return the weights to predict with, without training heads; averages where there are any."""
    weights = state.network.state_dict()
    assert state.average.keys() <= weights.keys(), "the average is of another network"
    return exported(with_updates({**weights, **state.average}))
