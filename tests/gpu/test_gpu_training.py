"""Training on CUDA end to end: compiled, killed and resumed, with finite weights at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainingjobs import make_job, stop_at_step

from selfseg.networks.device import select_device
from selfseg.networks.weights import load_weights
from selfseg.training import history
from selfseg.training.state import create_state
from selfseg.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("recipe", ["long", "short"])
def test_training_is_killed_resumed_and_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    device = select_device("cuda")
    job = make_job(tmp_path, device=device, workers=2)
    options = job.configuration.optimization
    limit = 0 if recipe == "long" else 100
    job = replace(
        job,
        configuration=job.configuration.model_copy(
            update={"optimization": options.model_copy(update={"short_below_steps": limit})}
        ),
    )
    stop_at_step(6, job, monkeypatch)
    fold = train(job)
    assert fold.steps == 12
    assert all(np.isfinite(line.loss) for line in history.read(job.output.history))
    assert all(bool(value.isfinite().all()) for value in load_weights(job.output.weights).values())


def test_state_is_compiled_and_in_reduced_precision(tmp_path: Path) -> None:
    device = select_device("cuda")
    job = make_job(tmp_path, device=device)
    state = create_state(
        job.configuration, job.configuration.optimization.recipe, channels=job.channels,
        outputs=job.outputs, seed=1, device=device,
    )  # fmt: skip
    assert state.forward is not state.network, "torch.compile fell back"
    capability = torch.cuda.get_device_capability(device)
    assert state.precision == ("bfloat16" if capability >= (8, 0) else "float16")
