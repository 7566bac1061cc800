"""Models that work on their own data and that no training of other data should start from."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from selfseg.planners.transfer import FAR_INTENSITIES, POOR_OVERLAP

from selfseg import pipeline
from selfseg.folds import find_configuration
from selfseg.phantoms.two_parts import (
    BRIGHT_FLUID_BALL,
    DARK_FLUID,
    Style,
    write_two_parts_dataset,
)
from selfseg.racing.race import race_dataset
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.metrics import MetricsTable
from selfseg.records.plan import Plan
from selfseg.records.transfer import Start
from selfseg.requests import PlanRequest, RaceRequest, StartRequest, TrainRequest
from selfseg.workspace.dataset import DatasetFolder

pytestmark = pytest.mark.slow
STYLES = {
    "same": DARK_FLUID,  # what the own images look like, too
    "misnamed": DARK_FLUID,  # the same images once more, but each part has the other's name
    "alike": replace(DARK_FLUID, anatomy="ball"),
    "inverted": BRIGHT_FLUID_BALL,
}
SETTINGS = (
    "configurations.3d_fullres.network.features=[8,8,8]",
    "configurations.3d_fullres.patch=[16,16,16]",
    "configurations.3d_fullres.optimization.epochs=4",  # a race takes a quarter
    "configurations.3d_fullres.optimization.steps_per_epoch=60",
    "shapes.labels=[]",
)
STEPS = 200  # of a model to start from
WORKS = 0.4  # held-out Dice on data of its own


def write(root: Path, name: str, style: Style, cases: int, seed: int) -> None:
    """Write images of 16 to 20 voxels a side."""
    small = replace(style, shapes=((16, 18, 16), (18, 20, 18)), spacing_mm=(2.0, 2.0, 2.0))
    write_two_parts_dataset(root / name, name=name, style=small, train=cases, test=0, seed=seed)


def exchange_names(description: Path) -> None:
    """Give both parts of a data set the name of the other one."""
    content = json.loads(description.read_text())
    labels = content["labels"]
    labels["anterior"], labels["posterior"] = labels["posterior"], labels["anterior"]
    description.write_text(json.dumps(content))


def planned(root: Path, name: str, start: StartRequest | None = None) -> pipeline.PlanResult:
    """Plan a data set that lies in `root`, with its workspace beside it."""
    request = PlanRequest(settings=SETTINGS, start=start, device="cpu", workers=1, preprocess=False)
    return pipeline.plan_dataset(str(root / name), root / "workspace", request)


def trained(root: Path, name: str, fold: str, steps: int = 2) -> pipeline.TrainResult:
    """Train as the plan says, for a moment."""
    request = TrainRequest(
        configuration="3d_fullres", fold=fold, epochs=1, steps_per_epoch=steps, device="cpu",
        workers=0,
    )  # fmt: skip
    return pipeline.train_fold(name, root / "workspace", request)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases of one's own, and a model of each style, all trained alike."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("hurts")
    write(root, "own", DARK_FLUID, cases=6, seed=3)
    for name, style in STYLES.items():
        write(root, name, style, cases=15, seed=4)
        if name == "misnamed":
            exchange_names(root / name / "dataset.json")
        planned(root, name)
        trained(root, name, "0", STEPS)
    return root


@pytest.mark.parametrize("name", STYLES)
def test_every_model_works_on_data_of_its_own(root: Path, name: str) -> None:
    """Otherwise a refusal would only say that a model has hardly learned anything."""
    scores = DatasetFolder(root / "workspace" / name).fold("3d_fullres", "0").scores
    dice = serial.load(MetricsTable, scores).mean.dice
    assert dice is not None
    assert dice > WORKS


DISTANCE = r"normalized intensities ([\d.]+) apart"
OVERLAP = r"without training a Dice of ([\d.]+) "


@pytest.mark.parametrize(
    ("source", "verdict", "pattern", "limits"),
    [
        ("misnamed", "refused", OVERLAP, (0.0, POOR_OVERLAP)),
        ("alike", "doubtful", DISTANCE, (0.0, 0.1)),
        ("inverted", "refused", DISTANCE, (FAR_INTENSITIES, 2.0)),
    ],
)
def test_a_misleading_model_is_refused_with_numbers(
    root: Path, source: str, verdict: str, pattern: str, limits: tuple[float, float],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The second is like the third in all but contrast: what is told apart is not the name."""
    plan = planned(root, "own", StartRequest(root / "workspace" / source)).plan
    (decision,) = (item for item in plan.decisions if item.rule == "start")
    assert decision.value.startswith(f"{verdict}: {source} 3d_fullres")
    found = re.search(pattern, decision.because)
    assert found, decision.because
    assert limits[0] <= float(found[1]) <= limits[1]
    refused = verdict == "refused"
    assert any(idea.is_transfer for idea in plan.nominated) is not refused
    assert find_configuration(plan, "3d_fullres").start is None  # the race has the last word
    assert (f"Start refused: {source} 3d_fullres" in caplog.text) is refused
    if source == "misnamed":
        assert trained(root, "own", "4").transfer is None
        assert "fold 4 starts from random weights: what the plan was made to fit" in caplog.text
        assert "refused: misnamed 3d_fullres fold 0" in caplog.text


def test_a_model_of_the_same_style_is_not_refused(root: Path) -> None:
    """It has seen the images of the misnamed one, and was trained like it."""
    plan = planned(root, "own", StartRequest(root / "workspace" / "same")).plan
    (decision,) = (item for item in plan.decisions if item.rule == "start")
    assert not decision.value.startswith("refused")
    found = re.search(OVERLAP, decision.because)
    assert found
    assert float(found[1]) > WORKS
    assert any(idea.is_transfer for idea in plan.nominated)


def start_at(name: str) -> Idea:
    """Return the idea to start from a model, whatever a planner thinks of it."""
    start = Start(folder=name, configuration="3d_fullres")
    return Idea(name=name, configuration="3d_fullres", start=start, because="tried here")


def test_a_race_rejects_the_model_that_does_harm_and_accepts_the_one_that_helps(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What `plan` refused is worse than random weights: it has to unlearn what it knows."""
    made = planned(root, "own")
    ideas = (start_at("inverted"), start_at("same"))
    serial.save(made.plan.model_copy(update={"nominated": ideas}), made.folder.plan)
    request = RaceRequest(
        configuration="3d_fullres",
        ideas=("inverted", "same"),
        folds=("0", "1", "2"),
        device="cpu",
        workers=0,
    )
    with caplog.at_level(logging.INFO):
        record = race_dataset("own", root / "workspace", request).record
    assert record is not None
    harmful, helpful = record.trials
    gain = harmful.trial.gains[0].gain.value
    assert gain < -0.01
    assert not harmful.trial.accepted
    assert f"mean gain of dice and nsd {gain:+.4f}" in harmful.trial.because
    assert helpful.trial.gains[0].gain.value > 0.05
    assert record.accepted == ("same",)
    plan = serial.load(Plan, made.folder.plan)
    assert find_configuration(plan, "3d_fullres").start == ideas[1].start
    started = trained(root, "own", "3").transfer
    assert started is not None
    assert started.source.dataset == "same"
