"""Scores of an epoch: with the weights that prediction would use, which leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from trainingjobs import SHORT, make_job

from selfseg.losses.build import build_loss
from selfseg.training.begin import validation_of
from selfseg.training.epoch import score_epoch
from selfseg.training.job import TrainingJob, plan_course
from selfseg.training.state import TrainState, create_state
from selfseg.training.step import final_weights


def averaging(job: TrainingJob) -> TrainState:
    """Return a state whose averages differ from the weights."""
    state = create_state(
        job.configuration, SHORT, channels=1, outputs=job.outputs, seed=0, device=job.device
    )
    for value in state.average.values():
        value.mul_(0.5).add_(0.01)
    return state


def test_an_epoch_is_scored_with_averaged_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state, batches = averaging(job), validation_of(job, plan_course(job))
    loss = build_loss(job.configuration.loss, job.plan.targets)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    for weight in state.network.parameters():
        weight.grad = torch.ones_like(weight)
    found = score_epoch(state, batches, loss, job.plan.targets)
    assert batches is not None
    state.network.eval()
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            image = batch.image.contiguous(memory_format=state.layout)
            with torch.autocast("cpu", state.dtype, enabled=state.dtype is not None):
                outputs = functional_call(state.network, final_weights(state), (image,))
                total += float(loss(outputs, batch.label, batch.maps))
    assert found.loss == pytest.approx(total / len(batches), rel=1e-6)
    for name, value in state.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(weight.grad is None for weight in state.network.parameters())


def test_an_interruption_leaves_the_weights_of_the_training(tmp_path: Path) -> None:
    class Interrupted(nn.Module):
        """A loss during which Ctrl-C is pressed."""

        def forward(self, *_: object) -> Tensor:
            raise KeyboardInterrupt

    job = make_job(tmp_path)
    state, batches = averaging(job), validation_of(job, plan_course(job))
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        score_epoch(state, batches, Interrupted(), job.plan.targets)
    for name, value in state.network.state_dict().items():
        assert torch.equal(value, before[name])
