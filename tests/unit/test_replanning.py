"""Planning again beside folds that are trained, begun or being trained with the plan."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from commandline import write_tiny_dataset
from tinymodel import save_model, tiny_plan, trained_fold

from selfseg import pipeline, running
from selfseg.errors import DeviceError, ModelError, SelfSegError
from selfseg.execution.locks import held
from selfseg.folds import find_configuration, open_planned, training_device
from selfseg.pipeline import plan_dataset
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.plan import Budget
from selfseg.requests import PlanRequest, PredictRequest, RunRequest, SelectRequest, TrainRequest
from selfseg.status import FoldStatus, read_status
from selfseg.workspace.dataset import DatasetFolder

NAME: Final = "3d_fullres"
OTHER_NETWORK = f"configurations.{NAME}.network.features=[4,8,16]"
OTHER_BATCH = f"configurations.{NAME}.batch=7"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", name="my data")


@pytest.fixture
def planned(data: Path, tmp_path: Path) -> DatasetFolder:
    """A plan, and fold 0 trained with it."""
    folder = replan(data, tmp_path)
    known = open_planned(folder)
    configuration = find_configuration(known.plan, NAME)
    first = serial.load(Splits, folder.splits).folds[0]
    cases = first.train
    fold = trained_fold(
        known.plan,
        configuration,
        "0",
        train=cases,
        held_out=first.validation,
        data_digest=known.data_digest(configuration, cases),
    )
    serial.save(fold, folder.fold(NAME, "0").description)
    folder.fold(NAME, "0").weights.touch()
    return folder


def replan(data: Path, workspace: Path, *settings: str) -> DatasetFolder:
    request = PlanRequest(device="cpu", workers=1, preprocess=False, settings=settings)
    return plan_dataset(str(data), workspace, request).folder


def status_of_fold_0(workspace: Path) -> tuple[FoldStatus, str, str]:
    (found,) = read_status("my data", workspace)
    fold = next(item for item in found.folds if (item.configuration, item.fold) == (NAME, "0"))
    return fold, found.next_command, found.note


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(item.message for item in caplog.records if item.name == "selfseg.replanning")


def test_outdated_folds_are_named_with_the_way_back(
    data: Path, planned: DatasetFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        replan(data, tmp_path, OTHER_NETWORK)
    former = planned.path / "plan.former-1.json"
    told = warnings(caplog)
    assert f"Outdated now: {NAME} fold 0 (trained)." in told
    assert f"To use them again put {former} in place of plan.json." in told
    assert "--workspace" in told
    fold, command, note = status_of_fold_0(tmp_path)
    assert fold.state == "outdated"
    assert command == f"selfseg train 'my data' {NAME} 0 --restart"
    assert f"fold 0 fits what stood there before: exchange {former} with plan.json to" in note
    planned.plan.rename(tmp_path / "other.json")
    former.rename(planned.plan)
    fold, _, note = status_of_fold_0(tmp_path)
    assert (fold.state, note) == ("done", "")
    # What is outdated already is not told again.
    caplog.clear()
    (tmp_path / "other.json").rename(planned.plan)
    replan(data, tmp_path, OTHER_NETWORK, OTHER_BATCH)
    assert not warnings(caplog)


def test_no_plan_is_written_that_outdates_a_fold_in_training(
    data: Path, planned: DatasetFolder, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in planned.path.glob("*.json")}
    running = planned.fold(NAME, "1").lock
    for lock, named in ((running, "fold 1"), (planned.run_lock, "fold 0")):
        with (
            held(lock, "is trained"),
            pytest.raises(SelfSegError, match=f"would outdate {NAME} {named}; nothing") as caught,
        ):
            replan(data, tmp_path, OTHER_NETWORK)
        assert "--workspace" in caught.value.remedy
        assert {path: path.read_bytes() for path in planned.path.glob("*.json")} == before
    with held(running, "is trained"):  # it goes on: nothing that it was begun with differs
        replan(data, tmp_path)
        replan(data, tmp_path, "configurations.2d.batch=7")


def test_a_begun_fold_needs_its_whole_configuration(
    data: Path, planned: DatasetFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for fold in ("1", "all"):
        checkpoint = planned.fold(NAME, fold).checkpoint
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    with caplog.at_level(logging.WARNING):
        replan(data, tmp_path, f"configurations.{NAME}.memory_gib=0.5")
        assert "Outdated" not in warnings(caplog)
        replan(data, tmp_path, OTHER_BATCH)
    assert f"Outdated now: {NAME} fold 1 (begun), {NAME} fold all (begun)." in warnings(caplog)


def test_other_cases_outdate_the_folds_that_were_trained_on_them(
    data: Path, planned: DatasetFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [case.id for case in open_planned(planned).dataset.cases]
    chosen = tmp_path / "cases.txt"
    chosen.write_text("\n".join(ids[:-1]))
    request = PlanRequest(device="cpu", workers=1, preprocess=False, cases=chosen)
    with caplog.at_level(logging.WARNING):
        plan_dataset(str(data), tmp_path, request)
    assert f"Outdated now: {NAME} fold 0 (trained)." in warnings(caplog)
    assert "Planned again with the cases of before (--cases) they are valid" in warnings(caplog)
    former = planned.path / "splits.former-1.json"
    former.replace(planned.splits)
    with pytest.raises(SelfSegError, match=f"has 1 case that .* does not have: {ids[-1]}"):
        pipeline.train_fold("my data", tmp_path, TrainRequest(configuration=NAME, fold="1"))
    replan(data, tmp_path)
    assert status_of_fold_0(tmp_path)[0].state == "done"


def test_other_folds_outdate_those_that_were_trained_on_the_former_ones(
    data: Path, planned: DatasetFolder, tmp_path: Path
) -> None:
    """Every command but `train` took such a fold for a finished one."""
    assert status_of_fold_0(tmp_path)[0].state == "done"
    splits = serial.load(Splits, planned.splits)
    other = splits.model_copy(update={"folds": splits.folds[::-1]})
    kept = serial.save_keeping_former(other, planned.splits)
    assert kept is not None
    fold, command, note = status_of_fold_0(tmp_path)
    assert fold.state == "outdated"
    assert f"fold 0 fits what stood there before: exchange {kept} with splits.json to" in note
    assert command.endswith(f"train 'my data' {NAME} 0 --restart")
    with pytest.raises(ModelError, match="other cases than its fold has now"):
        pipeline.select_models("my data", tmp_path, SelectRequest())
    with pytest.raises(SelfSegError, match="other cases than its fold has now"):
        running.run_dataset("my data", tmp_path, RunRequest(device="cpu"))


def test_a_plan_for_cuda_is_not_trained_on_a_cpu_unasked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    request = PlanRequest(device="cuda", memory="8GB", workers=1, preprocess=False)
    plan = plan_dataset(str(data), tmp_path, request).plan
    train = TrainRequest(configuration=NAME, fold="0")
    for start in (
        lambda: pipeline.train_fold("my data", tmp_path, train),
        lambda: running.run_dataset("my data", tmp_path, RunRequest()),
    ):
        with pytest.raises(DeviceError, match="made for CUDA") as caught:
            start()
        assert "--device cpu if you mean it" in caught.value.remedy
    assert not (tmp_path / "my data" / "preprocessed").exists()
    assert training_device(plan, "cpu").type == "cpu"
    for_cpu = plan.model_copy(update={"budget": Budget(memory_gib=8.0, device="cpu")})
    assert training_device(for_cpu, "auto").type == "cpu"


@pytest.mark.parametrize(
    ("planned_for", "option"), [("cuda", "auto"), ("cuda", "cpu"), ("cpu", "auto")]
)
def test_predicting_on_a_cpu_is_told_where_the_plan_is_for_cuda(
    planned_for: Literal["cpu", "cuda"], option: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    budget = Budget(memory_gib=8.0, device=planned_for)
    save_model(tmp_path / "model", tiny_plan().model_copy(update={"budget": budget}))
    image = sitk.GetImageFromArray(np.zeros((8, 16, 16), np.float32))
    sitk.WriteImage(image, str(tmp_path / "case_0000.nii.gz"))
    request = PredictRequest(
        source=tmp_path / "case_0000.nii.gz", output=tmp_path / "out", model=tmp_path / "model",
        device=option, workers=1,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        pipeline.predict_images(request)
    told = any("no CUDA device here" in message for message in caplog.messages)
    assert told == ((planned_for, option) == ("cuda", "auto"))
