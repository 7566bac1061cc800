"""Times of steps and predictions, measured before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tinymodel import tiny_configuration, tiny_plan
from trainingjobs import make_job

from selfseg.preprocessing.loss_maps import prepare_maps
from selfseg.records.loss import Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import DiceTerm, SignedDistanceTerm
from selfseg.speeds import case_seconds, loss_step_seconds


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


def test_a_plane_network_predicts_every_slice() -> None:
    """A 2D configuration leaves each case its own slices; others tell how many there are."""
    flat = tiny_configuration("2d", spacing_mm=(None, 1.0, 1.0))
    flat = flat.model_copy(update={"median_shape": (1.0, 16.0, 32.0)})
    low = tiny_configuration("3d_lowres").model_copy(update={"median_shape": (6.0, 8.0, 8.0)})
    plan = tiny_plan(low, flat, tiny_configuration())
    # 8 slices of 3 windows, half as far apart as they are wide, two of them in a batch of a step
    each_s = 6.0 / 3 / 2
    assert case_seconds(plan, flat, 6.0, mirrored=False) == pytest.approx(8 * 3 * each_s)
    assert case_seconds(plan, flat, 6.0, mirrored=True) == pytest.approx(4 * 8 * 3 * each_s)
    alone = tiny_plan(flat)  # pictures
    assert case_seconds(alone, flat, 6.0, mirrored=False) == pytest.approx(3 * each_s)
    other = plan.configurations[-1]  # one window
    assert case_seconds(plan, other, 6.0, mirrored=False) == pytest.approx(each_s)
