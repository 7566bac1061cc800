"""TrainState, the only mutable object of training, and how it is built for a device.

Layout, compilation and number format are applied once, here; the loop does not know of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from selfseg.networks.build import build_training_network
from selfseg.networks.layout import set_layout
from selfseg.networks.low_rank import updated
from selfseg.networks.precision import autocast_dtype
from selfseg.networks.training_heads import NO_HEADS, HeadCounts
from selfseg.records.optimization import Recipe
from selfseg.records.plan import Configuration
from selfseg.training.compiling import Trial, compile_for, scoring_for
from selfseg.training.meter import LossMeter
from selfseg.training.optimizer import build_optimizer, takes_fused_steps
from selfseg.training.trials import Forward, choose_layout
from selfseg.training.tuning import Tuning, learn_alike

log = logging.getLogger(__name__)

# Losses in a row that may overflow in float16 while its scale settles; each halves the scale.
TOLERATED = 10


@dataclass
class TrainState:
    """Everything that changes during training.

    Attributes:
        network: The weights.
        forward: The network as a step calls it (compiled on CUDA).
        scoring: The network as it is called without gradients.
        average: Running average of the weights by name; empty without averaging.
        optimizer: Its state.
        scaler: Loss scaling; disabled unless the format is float16.
        recipe: The recipe that this run follows.
        device: Where it trains.
        dtype: Format of automatic mixed precision; None is float32.
        layout: Memory format of images and weights.
        epoch, step: Finished epochs; finished steps.
        elapsed_s: Training time so far, over all resumes.
        losses: Of the current epoch.
        latest: Figures of the last epoch, for the progress bar.
        memory: What the loss remembers from step to step (see `DeeplySupervisedSum`).
        tuning: Which weights learn, and how.
    """

    network: nn.Module
    forward: Forward
    scoring: Forward
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype | None
    layout: torch.memory_format
    losses: LossMeter
    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    latest: str = ""
    memory: dict[str, Tensor] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def precision(self) -> str:
        """The number format in words."""
        return "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")


def create_state(  # noqa: PLR0913 (what a state depends on)
    configuration: Configuration,
    recipe: Recipe,
    *,
    channels: int,
    outputs: int,
    seed: int,
    device: torch.device,
    layout: torch.memory_format | None = None,
    heads: HeadCounts = NO_HEADS,
    start_: Callable[[nn.Module], Tuning] = learn_alike,
    stream_outputs: int | None = None,
    borrowed: int = 0,
    run_s: Callable[[float], float] = lambda _: 0.0,
) -> TrainState:
    """Return the state at step 0; random weights depend on the seed only.

    Args:
        configuration: Network, batch and patch.
        recipe: Optimizer and averaging.
        channels: Input channels.
        outputs: Labels with background.
        seed: Of the initial weights.
        device: Where to train.
        layout: Memory format of a run that goes on; None chooses.
        heads: Further heads that the loss needs.
        start_: Fills the fresh network with other weights, and tells how they learn.
        stream_outputs: Outputs for an auxiliary data set.
        borrowed: Samples of a batch that come from one, and pass through the network apart.
        run_s: Seconds of the whole run if a step takes so many; long ones try more on CUDA.
    """
    torch.manual_seed(seed)
    network = build_training_network(
        configuration.network,
        channels=channels,
        outputs=outputs,
        heads=heads,
        stream_outputs=stream_outputs,
    )
    dtype, reason = autocast_dtype(device)
    log.info("Precision: %s", reason)
    shape = (configuration.batch, channels, *configuration.patch)
    tuning = start_(network.to(device))
    whole = updated(network.to(device))  # updates of low rank that the start has added
    forward: Forward = whole
    scoring: Forward = whole
    if device.type == "cuda":
        # Where borrowed samples have a stream, they go through the network as it is.
        apart = 0 if hasattr(network, "auxiliary_stream") else borrowed
        calls = tuple((n, *shape[1:]) for n in step_sizes(shape[0], borrowed, apart))
        trial = Trial(whole, calls, device, dtype)
        called = compile_for(trial, layout, run_s=run_s)
        forward, layout = called.forward, called.way.layout
        scoring = scoring_for(trial, called)
    else:
        layout = layout or choose_layout(network, shape, device)
    set_layout(network, layout)
    averaged = recipe.average_decay > 0
    return TrainState(
        network=network,
        forward=forward,
        scoring=scoring,
        average={n: p.detach().clone() for n, p in network.named_parameters()} if averaged else {},
        optimizer=build_optimizer(
            recipe.optimizer, network, tuning, fused=takes_fused_steps(device)
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        recipe=recipe,
        device=device,
        dtype=dtype,
        layout=layout,
        losses=LossMeter(device, tolerated=TOLERATED if dtype == torch.float16 else 0),
        tuning=tuning,
    )


def step_sizes(batch: int, borrowed: int, apart: int) -> list[int]:
    """Return with how many samples steps call the network, the whole batch first.

    A run's last steps borrow none.

    Of a whole batch some are borrowed, and `apart` of these pass through this network too.
    """
    return sorted({batch, batch - borrowed, apart} - {0}, reverse=True)
