"""Times of steps and predictions, measured before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainingjobs import make_job

from selfseg.preprocessing.loss_maps import prepare_maps
from selfseg.records.loss import DiceTerm, Loss, SignedDistanceTerm
from selfseg.records.loss_maps import needed_maps
from selfseg.speeds import loss_step_seconds


def test_a_loss_with_a_head_of_its_own_is_timed(tmp_path: Path) -> None:
    loss = Loss(terms=(DiceTerm(), SignedDistanceTerm()))
    job = make_job(tmp_path)
    configuration = job.configuration.model_copy(update={"loss": loss})
    maps = tmp_path / "maps"
    prepare_maps(
        job.train_cases, job.data, maps, maps=needed_maps(loss), targets=job.plan.targets,
        flat=False, patch=configuration.patch, workers=1,
    )  # fmt: skip
    job = replace(job, configuration=configuration, loss_maps=maps)
    assert 0 < loss_step_seconds(job, limit_s=0.01) < 60
