"""The optimizer: fused on CUDA only, and then with the same steps (fused ones run on CPUs, too)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trainingjobs import CPU, LONG, make_job

from selfseg.records.optimization import SGD, AdamW, Optimizer
from selfseg.training import state as training_state
from selfseg.training.checkpoints import OPTIMIZER, optimizer_tensors, restore_optimizer
from selfseg.training.optimizer import build_optimizer, takes_fused_steps
from selfseg.training.tuning import Tuning

OPTIMIZERS: tuple[Optimizer, ...] = (SGD(), AdamW())


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def steps(
    network: nn.Sequential, optimizer: torch.optim.Optimizer, makes_overflow: tuple[bool, ...]
) -> list[torch.Tensor]:
    """Make steps with a loss scale; the second layer has no part in the first good one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    good = 0
    for overflows in makes_overflow:
        optimizer.zero_grad()
        x = torch.full((2, 3), float("inf") if overflows else 1.0)
        good += not overflows
        made = network[0](x) if good == 1 else network(x)
        scaler.scale(made.square().sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        scaler.step(optimizer)
        scaler.update()
    return [weight.detach().clone() for weight in network.parameters()]


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda item: item.kind)
@pytest.mark.parametrize("first", [(), (True, True)])
def test_fused_steps_equal_plain_ones_with_overflow_and_weights_that_begin_later(
    options: Optimizer, first: tuple[bool, ...]
) -> None:
    made = []
    for fused in (False, True):
        network = two_layers()
        optimizer = build_optimizer(options, network, Tuning(), fused=fused)
        made.append(steps(network, optimizer, (*first, False, False, False)))
    for plain, fused_weights in zip(*made, strict=True):
        assert plain.isfinite().all()
        torch.testing.assert_close(fused_weights, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda item: item.kind)
def test_a_fused_optimizer_goes_on_from_a_plain_one(options: Optimizer) -> None:
    """As a run does that was begun on a CPU, when only the first layer had learned."""
    network = two_layers()
    former = build_optimizer(options, network, Tuning(), fused=False)
    steps(network, former, (False,))
    kept = {k.removeprefix(OPTIMIZER): v.clone() for k, v in optimizer_tensors(former).items()}
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    made = []
    for fused in (False, True):
        network.load_state_dict(weights)
        optimizer = build_optimizer(options, network, Tuning(), fused=fused)
        restore_optimizer(optimizer, {name: value.clone() for name, value in kept.items()})
        made.append(steps(network, optimizer, (False, False)))
    for plain, fused_weights in zip(*made, strict=True):
        torch.testing.assert_close(fused_weights, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("cpu", False), ("meta", False), ("cuda", True)])
def test_only_cuda_devices_get_a_fused_optimizer(kind: str, expected: bool) -> None:
    assert takes_fused_steps(torch.device(kind)) is expected


@pytest.mark.parametrize("fused", [False, True])
def test_a_training_has_the_optimizer_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    monkeypatch.setattr(training_state, "takes_fused_steps", lambda device: fused)
    state = training_state.create_state(
        make_job(tmp_path).configuration, LONG, channels=1, outputs=3, seed=0, device=CPU
    )
    assert [group["fused"] for group in state.optimizer.param_groups] == [fused]


def test_cpus_keep_the_optimizer_of_bit_equal_runs(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = training_state.create_state(
        job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU
    )
    assert not any(group["fused"] for group in state.optimizer.param_groups)
    assert not state.optimizer.state
