"""Models that no training should start from: refused by `plan`, rejected by `race`, and told."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from selfseg.planners.transfer import FAR_INTENSITIES, POOR_OVERLAP

from selfseg import pipeline
from selfseg.folds import find_configuration
from selfseg.networks.weights import load_weights, save_weights
from selfseg.phantoms.two_parts import (
    BRIGHT_FLUID_BALL,
    DARK_FLUID,
    Style,
    write_two_parts_dataset,
)
from selfseg.racing.race import race_dataset
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.plan import Plan
from selfseg.records.transfer import FineTune, Start
from selfseg.requests import PlanRequest, RaceRequest, StartRequest, TrainRequest
from selfseg.workspace.dataset import DatasetFolder

pytestmark = pytest.mark.slow
STYLES = {
    "alike": replace(DARK_FLUID, anatomy="ball"),
    "inverted": BRIGHT_FLUID_BALL,  # and its only label has another name
    "misnamed": replace(BRIGHT_FLUID_BALL, anatomy="two_parts"),
}
SETTINGS = (
    "configurations.3d_fullres.network.features=[4,4,4]",
    "configurations.3d_fullres.patch=[16,16,16]",
    "configurations.3d_fullres.optimization.epochs=4",  # a race takes a quarter
    "configurations.3d_fullres.optimization.steps_per_epoch=3",
    "shapes.labels=[]",
)


def write(root: Path, name: str, style: Style, cases: int) -> Path:
    """Write images of 16 to 20 voxels a side."""
    small = replace(style, shapes=((16, 18, 16), (18, 20, 18)), spacing_mm=(2.0, 2.0, 2.0))
    write_two_parts_dataset(root, name=name, style=small, train=cases, test=0, seed=len(name))
    return root


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
    """Six cases of one's own, and a hardly trained model of each style."""
    root = tmp_path_factory.mktemp("hurts")
    write(root / "own", "own", DARK_FLUID, 6)
    for name, style in STYLES.items():
        write(root / name, name, style, 3)
        planned(root, name)
        trained(root, name, "all")
    return root


@pytest.mark.parametrize(
    ("source", "verdict", "pattern", "limits"),
    [
        ("alike", "doubtful", r"normalized intensities ([\d.]+) apart", (0.0, 0.1)),
        ("inverted", "refused", r"normalized intensities ([\d.]+) apart", (FAR_INTENSITIES, 2.0)),
        ("misnamed", "refused", r"without training a Dice of ([\d.]+) ", (0.0, POOR_OVERLAP)),
    ],
)
def test_a_misleading_model_is_refused_with_numbers(
    root: Path, source: str, verdict: str, pattern: str, limits: tuple[float, float],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The first is like the second in all but contrast: what is told apart is not the name."""
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
        assert trained(root, "own", "0").transfer is None
        assert "fold 0 starts from random weights: what the plan was made to fit" in caplog.text
        assert "refused: misnamed 3d_fullres fold all" in caplog.text


def test_a_race_rejects_a_model_that_finds_nothing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trained on empty label maps, as it were, and hardly able to unlearn that."""
    source = DatasetFolder(root / "workspace" / "misnamed").fold("3d_fullres", "all").weights
    weights = load_weights(source)
    heads = [name for name, values in weights.items() if values.shape == (3,) and "head" in name]
    assert heads
    for name in heads:
        weights[name] = weights[name] * 0
        weights[name][0] = 50.0  # background
    save_weights(weights, source)

    made = planned(root, "own", StartRequest(source.parents[3]))
    start = Start(folder="misnamed", configuration="3d_fullres")
    idea = Idea(name="transfer", configuration="3d_fullres", start=start, because="tried here")
    slow = FineTune(rate=0.01, short_rate=0.01)
    item = find_configuration(made.plan, "3d_fullres").model_copy(update={"transfer": slow})
    plan: Plan = made.plan.with_configuration(item).model_copy(update={"nominated": (idea,)})
    serial.save(plan, made.folder.plan)
    request = RaceRequest(
        configuration="3d_fullres", ideas=("transfer",), folds=("0", "1"), device="cpu", workers=0
    )
    record = race_dataset("own", root / "workspace", request).record

    assert record is not None
    assert record.accepted == ()
    (trial,) = record.trials
    gain = trial.trial.gains[0].gain.value
    assert gain < -0.01
    assert f"mean gain of dice and nsd {gain:+.4f}" in trial.trial.because
    assert "better in 0 of" in trial.trial.because
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert trained(root, "own", "2").transfer is None
    assert "fold 2 starts from random weights: a race rejected transfer" in caplog.text
    assert f"{gain:+.4f}" in caplog.text
