"""The trainings of a race, with simulated ones in place of the real."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
from racedata import DECISION, IDEAS, an_idea, label_scores, scores_of, write_unraced

from selfseg.cli.race_tables import print_race
from selfseg.errors import DivergenceError
from selfseg.inference.trained import PlannedDataset
from selfseg.racing import train as trainings
from selfseg.racing.race import RaceResult, race_dataset
from selfseg.racing.train import Track
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.loss_terms import ShapeCodeTerm
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Plan
from selfseg.records.race import Arm, RaceLength
from selfseg.requests import RaceRequest, TrainRequest

GAINS = {"top_k": 0.02, "focal": 0.04, "tversky": -0.01}


@pytest.fixture
def known(tmp_path: Path) -> PlannedDataset:
    """Twenty cases in four folds, nothing trained, three ideas."""
    return write_unraced(tmp_path)


def start(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, diverging: str
) -> tuple[RaceResult, list[str]]:
    """Race, where one arm diverges in its second fold; return what was trained as well."""
    trained = []

    def simulated(track: Track, planned: PlannedDataset, fold: str, _: RaceLength) -> MetricsTable:
        arm = planned.folder.path.name
        trained.append(f"{arm} {fold}")
        if arm == diverging and fold == "1":
            raise DivergenceError("the loss is not a number", step=7)
        gain = max((GAINS[name] for name in arm.split("+")[1:]), default=0.0)
        cases = scores_of(serial.load(Splits, track.known.folder.splits), [fold], gain)
        return MetricsTable(mean=label_scores(None, None), labels={}, cases=cases)

    monkeypatch.setattr(trainings, "_train", simulated)
    request = RaceRequest()
    return race_dataset("phantom", known.folder.path.parent, request), trained


def test_an_idea_that_diverges_is_rejected_and_the_race_goes_on(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, trained = start(known, monkeypatch, "plain+focal")
    assert "plain+focal 1" in trained
    assert "plain+focal 2" not in trained  # what failed once is not tried further
    assert "plain+tversky 3" in trained
    assert result.record is not None
    assert result.record.accepted == ("top_k",)
    top_k, focal, _ = serial.load(Plan, known.folder.plan).nominated
    assert [trial.accepted for trial in top_k.trials] == [True]
    assert [trial.because for trial in focal.trials] == ["diverged at step 7 of fold 1"]
    assert (focal.trials[0].accepted, focal.trials[0].gains) == (False, ())
    decisions = serial.load(Plan, known.folder.plan).decisions
    told = {decision.subject: decision.because for decision in decisions}
    assert told["configurations.3d_fullres.nominated.focal"].startswith("not compared: diverged")
    print_race(result)
    assert "focal: rejected: diverged at step 7 of fold 1" in capsys.readouterr().out


def test_a_combination_that_diverges_is_rejected(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = start(known, monkeypatch, "plain+focal+top_k")
    assert result.record is not None
    assert result.record.accepted == ("focal",)
    assert result.record.trials[-1].trial.because == "diverged at step 7 of fold 1"
    assert result.record.trials[-1].trial.on_top_of == ("focal",)


def test_a_plain_arm_that_diverges_ends_the_race(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DivergenceError):
        start(known, monkeypatch, "plain")


class Trainings:
    """In place of `train` and `validate`: writes a fold, and keeps the requests."""

    def __init__(self, known: PlannedDataset) -> None:
        self.track = Track(
            known, known.folder.race("3d_fullres", "key"), "3d_fullres", IDEAS, RaceRequest(),
            topology=False,
        )  # fmt: skip
        self.requests: list[TrainRequest] = []

    def job(self, planned: PlannedDataset, request: TrainRequest) -> TrainRequest:
        """Return a request as a job."""
        self.requests.append(request)
        self.files = planned.folder.fold("3d_fullres", request.fold)
        return request

    def train(self, request: TrainRequest) -> None:
        """Write a fold as long as was asked."""
        assert request.epochs
        assert request.steps_per_epoch
        made = TrainedFold(
            configuration="3d_fullres", fold=request.fold, dataset="phantom", seed=request.seed,
            plan_digest="", epochs=request.epochs, steps=request.epochs * request.steps_per_epoch,
            seconds=1.0, precision="float32", mirror_axes=(), train_cases=(), validation_cases=(),
        )  # fmt: skip
        serial.save(made, self.files.description)
        self.files.weights.write_bytes(b"weights")

    def validate(self, request: TrainRequest, _: PlannedDataset) -> MetricsTable:
        """Write scores."""
        cases = scores_of(serial.load(Splits, self.track.known.folder.splits), [request.fold], 0.0)
        table = MetricsTable(mean=label_scores(None, None), labels={}, cases=cases)
        serial.save(table, self.files.scores)
        return table


@pytest.fixture
def simulated(known: PlannedDataset, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Trainings that write what they should, fit for every plan."""
    found = Trainings(known)
    monkeypatch.setattr(trainings, "training_job", found.job)
    monkeypatch.setattr("selfseg.training.train.train", found.train)
    monkeypatch.setattr("selfseg.training.validate.validate", found.validate)
    monkeypatch.setattr(PlannedDataset, "is_validated", lambda *_: True)
    monkeypatch.setattr(PlannedDataset, "fault", lambda *_: "")
    return found


def length_of(epochs: int, steps_per_epoch: int) -> RaceLength:
    return RaceLength(
        epochs=epochs, steps_per_epoch=steps_per_epoch, further_arms=0, decision=DECISION
    )


def test_only_arms_of_one_length_are_compared(simulated: Trainings) -> None:
    def restarts(length: RaceLength, seed: int = 0) -> list[bool]:
        simulated.requests.clear()
        track = replace(simulated.track, request=RaceRequest(seed=seed))
        trainings.train_arms(track, [Arm()], ["0", "1"], length)
        return [request.restart for request in simulated.requests]

    assert restarts(length_of(5, 10)) == [False, False]
    assert restarts(length_of(5, 10)) == []
    # as after a lost race.json, with other times measured
    assert restarts(length_of(5, 9)) == [True, True]
    assert restarts(length_of(9, 5)) == [True, True]
    assert restarts(length_of(9, 5), seed=1) == [True, True]


@pytest.mark.parametrize(
    ("begun", "restart"), [((5, 10), False), ((5, 9), True), ((6, 10), True), (None, True)],
    ids=["the same", "other epochs", "longer", "damaged"],
)  # fmt: skip
def test_a_training_goes_on_only_with_its_length(
    simulated: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    begun: tuple[int, int] | None,
    *,
    restart: bool,
) -> None:
    files = simulated.track.planned_arm(Arm()).folder.fold("3d_fullres", "0")
    files.checkpoint.parent.mkdir(parents=True)
    files.checkpoint.write_bytes(b"state")
    position = None
    if begun is not None:
        position = SimpleNamespace(seed=0, steps_per_epoch=begun[1], total_steps=prod(begun))
    monkeypatch.setattr("selfseg.training.checkpoints.peek", lambda _: position)
    trainings.train_arms(simulated.track, [Arm()], ["0"], length_of(5, 10))
    assert [request.restart for request in simulated.requests] == [restart]


@pytest.mark.parametrize("refused", ["that of core renders 4 shapes badly", ""])
def test_an_idea_whose_shape_models_are_refused_is_not_trained(
    simulated: Trainings, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    shape = an_idea("shape", ShapeCodeTerm(labels=("core",)))
    track = replace(simulated.track, ideas=(shape,))
    asked = []

    def refusal(request: TrainRequest) -> str:
        asked.append(request.fold)
        return refused if request.fold == "1" else ""

    monkeypatch.setattr("selfseg.training.shapes.shape_refusal", refusal)
    arms = [Arm(), Arm(ideas=("shape",))]
    plain, shaped = trainings.train_arms(track, arms, ["0", "1", "2"], length_of(5, 10))
    assert len(plain.cases) > 0
    assert asked == (["0", "1"] if refused else ["0", "1", "2"])  # never of the plain arm
    assert shaped.stopped == (f"no shape model can be used in fold 1: {refused}" if refused else "")
    assert len(shaped.cases) == (0 if refused else len(plain.cases))
