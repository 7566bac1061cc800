"""A start that has to prove itself: planned, raced against random weights, trained from or not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from commandline import TINY_NETWORK, write_tiny_dataset
from selfseg.planners.race import DefaultRacer
from tinymodel import save_model

from selfseg import pipeline
from selfseg.folds import find_configuration
from selfseg.racing.race import race_dataset
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Decision, Plan
from selfseg.records.race import RaceEvidence, RaceRecord
from selfseg.records.transfer import Start
from selfseg.requests import PlanRequest, RaceRequest, StartRequest, TrainRequest
from selfseg.workspace.dataset import DatasetFolder

pytestmark = pytest.mark.slow
MODEL = Start(folder="other", configuration="3d_fullres")
TRANSFER = Idea(name="transfer", configuration="3d_fullres", start=MODEL, because="tried here")
SHORT = (
    "configurations.3d_fullres.optimization.epochs=4",  # a race takes a quarter
    "configurations.3d_fullres.optimization.steps_per_epoch=2",
    "shapes.labels=[]",  # takes longer than all the rest
)


@pytest.fixture
def folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> DatasetFolder:
    """A data set that is planned to fit a model of random weights, which is refused."""
    root = tmp_path / "workspace"
    data = write_tiny_dataset(tmp_path / "data", train=4, test=0)
    settings = (*TINY_NETWORK[1::2], *SHORT)
    request = PlanRequest(settings=settings, device="cpu", workers=1, preprocess=False)
    made = pipeline.plan_dataset(str(data), root, request)
    save_model(root / "other", made.plan.model_copy(update={"dataset": "other"}))
    start = StartRequest(root / "other", "3d_fullres")
    request = PlanRequest(settings=SHORT, start=start, device="cpu", workers=1, preprocess=False)
    made = pipeline.plan_dataset(str(data), root, request)
    assert made.plan.decisions[0].value.startswith("refused: other 3d_fullres fold 0")
    assert "Start refused" in caplog.text
    assert not any(idea.is_transfer for idea in made.plan.nominated)
    assert find_configuration(made.plan, "3d_fullres").start is None
    assert made.plan.init is not None
    assert made.plan.init.model_copy(update={"weights": ()}) == MODEL
    return made.folder


def race(folder: DatasetFolder, monkeypatch: pytest.MonkeyPatch, verdict: str) -> RaceRecord:
    """Race the start on two folds, with a verdict that does not depend on so short trainings."""

    def decide(_: DefaultRacer, evidence: RaceEvidence) -> Decision:
        assert evidence.is_transfer
        return Decision(rule="race.accept_idea", subject="", value=verdict, because="decided here")

    monkeypatch.setattr(DefaultRacer, "accept_idea", decide)
    request = RaceRequest(
        configuration="3d_fullres", ideas=("transfer",), folds=("0", "1"), device="cpu", workers=0
    )
    record = race_dataset("tiny", folder.workspace, request).record
    assert record is not None
    return record


def trained(folder: DatasetFolder, fold: str, *, restart: bool = False) -> pipeline.TrainResult:
    """Train a fold for a step, without a word of a start."""
    request = TrainRequest(
        configuration="3d_fullres", fold=fold, epochs=1, steps_per_epoch=1, device="cpu", workers=0,
        restart=restart,
    )  # fmt: skip
    return pipeline.train_fold("tiny", folder.workspace, request)


def test_a_race_decides_what_train_starts_from(
    folder: DatasetFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = serial.load(Plan, folder.plan)
    item = find_configuration(plan, "3d_fullres").model_copy(update={"start": MODEL})
    plan = plan.with_configuration(item).model_copy(update={"nominated": (TRANSFER,)})
    serial.save(plan, folder.plan)
    assert trained(folder, "0").transfer is not None  # used until a race rejects it

    record = race(folder, monkeypatch, "rejected")
    (path,) = folder.path.glob("race/*/race.json")
    starts = {
        f"{found.parts[-5]} {found.parent.name}": serial.load(TrainedFold, found).start
        for found in path.parent.rglob("fold.json")
    }
    assert {name: start and start.dataset for name, start in starts.items()} == {
        "plain fold_0": None,
        "plain fold_1": None,
        "plain+transfer fold_0": "other",
        "plain+transfer fold_1": "other",
    }
    assert [arm.name for arm in record.arms] == ["plain", "plain+transfer"]
    with caplog.at_level(logging.INFO):
        assert trained(folder, "0", restart=True).transfer is None
    assert "fold 0 starts from random weights: a race rejected transfer (decided" in caplog.text

    # the same trainings with another verdict
    serial.save(plan, folder.plan)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": False, "trials": []}))
    assert race(folder, monkeypatch, "accepted").accepted == ("transfer",)
    found = trained(folder, "1")
    assert found.transfer is not None
    assert found.transfer.source.dataset == "other"
    assert found.transfer.loaded_share == 1.0
