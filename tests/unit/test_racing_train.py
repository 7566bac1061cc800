"""The trainings of a race, with simulated ones in place of the real."""

from __future__ import annotations

from pathlib import Path

import pytest
from racedata import label_scores, scores_of, write_unraced

from selfseg.cli.race_tables import print_race
from selfseg.errors import DivergenceError
from selfseg.inference.trained import Workspace
from selfseg.racing import train as trainings
from selfseg.racing.race import RaceResult, race_dataset
from selfseg.racing.train import Track
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.metrics import MetricsTable
from selfseg.records.plan import Plan
from selfseg.records.race import RaceLength
from selfseg.requests import RaceRequest

GAINS = {"top_k": 0.02, "focal": 0.04, "tversky": -0.01}


@pytest.fixture
def known(tmp_path: Path) -> Workspace:
    """Twenty cases in four folds, nothing trained, three ideas."""
    return write_unraced(tmp_path)


def start(
    known: Workspace, monkeypatch: pytest.MonkeyPatch, diverging: str
) -> tuple[RaceResult, list[str]]:
    """Race, where one arm diverges in its second fold; return what was trained as well."""
    trained = []

    def simulated(track: Track, workspace: Workspace, fold: str, _: RaceLength) -> MetricsTable:
        arm = workspace.folder.path.name
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
    known: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = start(known, monkeypatch, "plain+focal+top_k")
    assert result.record is not None
    assert result.record.accepted == ("focal",)
    assert result.record.trials[-1].trial.because == "diverged at step 7 of fold 1"
    assert result.record.trials[-1].trial.on_top_of == ("focal",)


def test_a_plain_arm_that_diverges_ends_the_race(
    known: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DivergenceError):
        start(known, monkeypatch, "plain")
