"""`selfseg race` on a phantom: trained, killed and gone on with, written to the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commandline import TINY_NETWORK, selfseg, write_tiny_dataset
from racedata import an_idea

from selfseg import pipeline
from selfseg.inference.trained import weights_digest
from selfseg.racing.race import RaceResult, race_dataset
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.loss_terms import CrossEntropyTerm, SkeletonRecallTerm, TopKTerm
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Plan
from selfseg.records.race import RaceRecord
from selfseg.requests import PlanRequest, RaceRequest
from selfseg.training import train as training
from selfseg.training.state import TrainState
from selfseg.training.step import train_step
from selfseg.workspace.dataset import DatasetFolder

pytestmark = pytest.mark.slow
IDEAS = (
    an_idea("top k", TopKTerm(), replaces=("cross_entropy",)),
    an_idea("tube", SkeletonRecallTerm()),
)
SHORT = (
    "configurations.3d_fullres.optimization.epochs=8",  # a race takes a quarter
    "configurations.3d_fullres.optimization.steps_per_epoch=3",
)


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a plan, its arrays and two ideas."""
    root = tmp_path_factory.mktemp("race")
    write_tiny_dataset(root / "data", train=4)
    request = PlanRequest(settings=(*TINY_NETWORK[1::2], *SHORT), device="cpu", workers=1)
    made = pipeline.plan_dataset(str(root / "data"), root / "workspace", request)
    serial.save(made.plan.model_copy(update={"nominated": IDEAS}), made.folder.plan)
    return root / "workspace"


def start(workspace: Path) -> RaceResult:
    """Race the second idea on two folds."""
    request = RaceRequest(
        configuration="3d_fullres",
        ideas=("tube",),
        folds=("0", "1"),
        device="cpu",
        workers=0,
        seed=3,
    )
    return race_dataset("tiny", workspace, request)


def weights_of(workspace: Path) -> dict[str, bytes]:
    """Return the weights of every arm and fold."""
    found = (workspace / "tiny" / "race").rglob("weights.safetensors")
    return {"/".join(path.parts[-5:]): path.read_bytes() for path in found}


def test_killed_race_goes_on_to_the_same_plan(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for workspace in (undisturbed, disturbed):
        shutil.copytree(planned, workspace)
    result = start(undisturbed)
    record = result.record
    assert record is not None
    steps = 0

    def dying(state: TrainState, *args: object, **options: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 11:  # in the second arm, in its second epoch
            raise KilledError
        return train_step(state, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", dying)
        with pytest.raises(KilledError):
            start(disturbed)
    assert serial.load(Plan, DatasetFolder(disturbed / "tiny").plan).nominated == IDEAS
    again = start(disturbed)
    assert again.record == record
    weights = weights_of(undisturbed)
    assert len(weights) == 4
    assert weights_of(disturbed) == weights
    plans = [serial.load(Plan, DatasetFolder(w / "tiny").plan) for w in (undisturbed, disturbed)]
    assert plans[0] == plans[1]
    _check(record, plans[0], result, DatasetFolder(undisturbed / "tiny"))


def _check(record: RaceRecord, plan: Plan, result: RaceResult, folder: DatasetFolder) -> None:
    """Check what a race of one idea on two folds of one case each leaves behind."""
    assert (record.length.epochs, record.length.steps) == (2, 6)
    assert [arm.name for arm in record.arms] == ["plain", "plain+tube"]
    assert result.folder is not None
    trained = [
        serial.load(TrainedFold, path) for path in sorted(result.folder.path.rglob("fold.json"))
    ]
    assert {(fold.steps, fold.seed) for fold in trained} == {(6, 3)}
    configuration = next(c for c in plan.configurations if c.name == "3d_fullres")
    assert {fold.plan_digest for fold in trained} == {weights_digest(plan, configuration)}
    top_k, tube = plan.nominated
    assert [gain.metric for gain in tube.trials[0].gains[:3]] == [
        "mean of cldice and betti0", "cldice", "betti0",
    ]  # fmt: skip
    assert tube.trials[0].cases == len(record.cases)
    assert top_k.trials == ()
    assert plan.decisions[-1].rule.startswith("race.")
    assert (folder.path / "plan.former-1.json").is_file()
    assert result.folder.differences.read_bytes().startswith(b"\x89PNG")
    # arrays are shared: an arm holds its plan and its models alone
    arm = result.folder.arm("plain+tube", "3d_fullres").path
    assert {path.name for path in arm.iterdir()} == {"plan.json", "models"}
    losses = serial.load(Plan, arm / "plan.json").configurations[-1].loss
    assert [term.kind for term in losses.terms] == ["dice", "cross_entropy", "skeleton_recall"]
    assert isinstance(losses.terms[1], CrossEntropyTerm)


def test_the_command_tells_when_there_is_nothing_to_race(planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned, tmp_path / "workspace")
    shared = ("tiny", "--workspace", tmp_path / "workspace", "--device", "cpu")
    done = selfseg("race", *shared, "--config", "2d", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["raced"] == []
    assert "2d: no nominated idea to race; plan.json nominates 2, 0 of them" in told["note"]
    assert "--config 3d_fullres" in told["note"]


def test_the_command_measures_its_arms_and_tells_the_verdict(planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned, tmp_path / "workspace")
    folder = DatasetFolder(tmp_path / "workspace" / "tiny")
    # So much time that the plan's length fits; steps follow the time in test_planners_race.py.
    done = selfseg(
        "race", "tiny", "--workspace", folder.path.parent, "--device", "cpu",
        "--config", "3d_fullres", "--folds", "0,1", "--ideas", "top k", "--time", "9h",
        "--workers", "0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.path.glob("race/*/race.json")
    record = serial.load(RaceRecord, path)
    assert record.finished
    assert record.length.steps == 24
    assert all(arm.step_s for arm in record.arms)
    assert "Race of 3d_fullres: 2 arms × folds 0, 1, 24 steps each" in done.stderr
    assert "+ 1 top_k)" in done.stderr
    assert "top k: " in done.stdout
    assert "mean gain of dice and nsd" in done.stdout
    # a plan is made anew without that, and says so
    root = serial.load(Dataset, folder.dataset).root
    again = selfseg("plan", root, "--workspace", folder.path.parent, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert "without what races found (top k of 3d_fullres)" in again.stderr
