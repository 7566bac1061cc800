"""What a run refuses, counts as done and schedules; on written workspaces, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commandline import write_tiny_dataset
from selectiondata import one_hot, write_members
from tinymodel import save_model, tiny_plan

from selfseg import running
from selfseg.errors import SelfSegError
from selfseg.inference.trained import PlannedDataset
from selfseg.pipeline import plan_dataset
from selfseg.plan import refuse_other_plan
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Fold, Splits
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Decision, Plan
from selfseg.records.run import RunRecord, Schedule, Speed, Training
from selfseg.records.selection import Selection
from selfseg.records.transfer import Start, StartModel
from selfseg.requests import PlanRequest, RunRequest, SelectRequest, StartRequest
from selfseg.selection.candidates import compare
from selfseg.status import read_status

DECISION = Decision(rule="schedule", subject="trainings", value="", because="")
NAMES = ("0", "1", "2", "3")


@pytest.fixture
def known(tmp_path: Path) -> PlannedDataset:
    """Two configurations; one lacks its last fold."""
    members = {name: lambda label, _: one_hot(label) for name in ("2d", "3d_fullres")}
    found = write_members(tmp_path, members, folds={"2d": NAMES[:3], "3d_fullres": NAMES})
    serial.save(found.dataset, found.folder.dataset)
    ids = [case.id for case in found.dataset.cases]
    folds = tuple(
        Fold(
            train=tuple(c for j, c in enumerate(ids) if j % 4 != i),
            validation=tuple(c for j, c in enumerate(ids) if j % 4 == i),
        )
        for i in range(4)
    )
    serial.save(Splits(folds=folds), found.folder.splits)
    return found


def record(
    known: PlannedDataset, *, total_s: float | None = 1000.0, finished: bool = False
) -> RunRecord:
    trainings = tuple(
        Training(configuration=item.name, fold=fold)
        for item in known.plan.configurations
        for fold in NAMES
    )
    return RunRecord(
        total_s=total_s,
        elapsed_s=100.0,
        speeds=tuple(
            Speed(configuration=item.name, step_s=1.0, case_s=2.0)
            for item in known.plan.configurations
        ),
        schedule=Schedule(trainings=trainings, validation_cases=(2,) * 8, decision=DECISION),
        finished=finished,
    )


def test_only_what_is_not_trained_and_validated_is_left(known: PlannedDataset) -> None:
    ((training, seconds),) = running.time_table(known, record(known), 100.0)
    assert (training.configuration, training.fold) == ("2d", "3")
    assert seconds is not None
    # one case was measured to take a second, two are held out; the rest is reserve and selection
    assert 860 < seconds < 870
    known.folder.fold("3d_fullres", "2").scores.unlink()
    table = running.time_table(known, record(known), 100.0)
    assert [(t.configuration, t.fold) for t, _ in table] == [("2d", "3"), ("3d_fullres", "2")]
    assert running.time_table(known, record(known, total_s=None), 0.0)[0][1] is None


def test_time_that_is_gone_leaves_the_shortest_training(known: PlannedDataset) -> None:
    ((_, seconds),) = running.time_table(known, record(known), 5000.0)
    assert seconds == running.SHORTEST_TRAINING_S


def test_a_fold_of_another_plan_stops_the_run_and_is_named(known: PlannedDataset) -> None:
    path = known.folder.fold("2d", "1").description
    former = serial.load(TrainedFold, path)
    serial.save(former.model_copy(update={"plan_digest": "other"}), path)
    with pytest.raises(SelfSegError, match="2d fold 1 was trained with another plan") as caught:
        running.time_table(known, record(known), 0.0)
    assert "--restart" in caught.value.remedy


def test_a_run_refuses_options_that_the_plan_was_not_made_with(
    known: PlannedDataset, tmp_path: Path
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("case_0\ncase_1\n")
    for request, finding in (
        (RunRequest(cases=few), "--cases"),
        (RunRequest(memory="40GB"), "--memory 40GB"),
        (RunRequest(planner="other"), "--planner other"),
    ):
        with pytest.raises(SelfSegError, match=f"was made without {finding}"):
            running.run_dataset("phantom", tmp_path, request)
    assert not known.folder.run.exists()


def test_a_run_refuses_a_start_and_a_second_data_set_that_the_plan_does_not_have(
    known: PlannedDataset, tmp_path: Path
) -> None:
    model = StartRequest(tmp_path / "other")
    requests = (
        RunRequest(start=model),
        RunRequest(start=replace(model, fold="1")),
        RunRequest(start=replace(model, configuration="2d")),
        RunRequest(auxiliary=str(tmp_path)),
        RunRequest(auxiliary="phantom"),
    )

    def complaint(request: RunRequest) -> str:
        try:
            refuse_other_plan(known.folder, tmp_path, request)
        except SelfSegError as error:
            return error.message.removeprefix(f"{known.folder.plan}: was made without ").split()[0]
        return ""

    assert [complaint(each) for each in requests] == ["--init"] * 3 + ["--auxiliary"] * 2
    # whether the start is used or was rejected since
    init = Start(folder="other", configuration="3d_fullres")
    plan = known.plan.model_copy(update={"init": init, "auxiliary": Auxiliary(name="phantom")})
    serial.save(plan, known.folder.plan)
    serial.save(known.dataset, known.folder.auxiliary)
    assert [complaint(each) for each in requests] == ["", "--init", "--init", "--auxiliary", ""]


def test_a_run_plans_with_the_start_and_the_second_data_set_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PlanRequest] = []

    def plan(_: str, __: Path, request: PlanRequest) -> None:
        asked.append(request)
        raise SelfSegError("planned")

    monkeypatch.setattr("selfseg.pipeline.plan_dataset", plan)
    model = StartRequest(tmp_path / "other", "3d_fullres", "0")
    source = write_tiny_dataset(tmp_path / "data", train=2, test=0)
    with pytest.raises(SelfSegError, match="planned"):
        running.run_dataset(str(source), tmp_path, RunRequest(start=model, auxiliary="more"))
    assert [(request.start, request.auxiliary) for request in asked] == [(model, "more")]


def test_a_run_refuses_another_data_set_of_the_same_name(
    known: PlannedDataset, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "dataset.json").write_text('{"name": "phantom"}')
    with pytest.raises(SelfSegError, match="another dataset of this name"):
        running.run_dataset(str(other), tmp_path, RunRequest())


def select(known: PlannedDataset) -> Selection:
    from selfseg import pipeline

    return pipeline.select_models(
        "phantom", known.folder.path.parent, SelectRequest(device="cpu", workers=1)
    )


def test_status_names_what_would_go_on(known: PlannedDataset) -> None:
    def status() -> tuple[str, str]:
        (found,) = read_status("phantom", known.folder.path.parent)
        return found.summary, found.next_command

    assert status() == ("7 of 8 folds trained, nothing selected", "selfseg train phantom 2d 3")
    serial.save(record(known), known.folder.run)
    summary, command = status()
    assert summary.endswith("run stopped after 1.7 of 16.7 minutes")
    assert command == "selfseg run phantom --time 1000s"
    # A finished run left out on purpose what is missing.
    serial.save(record(known, finished=True), known.folder.run)
    assert status()[1] == "selfseg select phantom"
    (member,) = select(known).members
    assert "folds trained, selected, run finished" in status()[0]
    assert status()[1] == ""
    weights = known.folder.fold(member.configuration, "0").weights
    weights.write_bytes(b"trained again")
    assert "selected before the last training" in status()[0]


def test_status_tells_what_is_outdated(known: PlannedDataset) -> None:
    path = known.folder.fold("2d", "1").description
    former = serial.load(TrainedFold, path)
    serial.save(former.model_copy(update={"data_digest": "other"}), path)
    (found,) = read_status("phantom", known.folder.path.parent)
    states = {(fold.configuration, fold.fold): fold.state for fold in found.folds}
    assert states["2d", "1"] == "outdated"
    assert states["2d", "0"] == "done"
    assert found.next_command == "selfseg train phantom 2d 1 --restart"


def test_the_next_command_keeps_the_model_that_a_fold_began_with(known: PlannedDataset) -> None:
    """Without it the command would be refused, or train from random weights."""
    path = known.folder.fold("2d", "1").description
    start = StartModel(folder="a b", dataset="x", configuration="2d", fold="all", digest="1")
    changes = {"data_digest": "other", "start": start}
    serial.save(serial.load(TrainedFold, path).model_copy(update=changes), path)
    (found,) = read_status("phantom", known.folder.path.parent)
    assert found.next_command == (
        "selfseg train phantom 2d 1 --init 'a b' --init-config 2d --init-fold all --restart"
    )
    pretrained = start.model_copy(update={"fold": "pretrained"})
    serial.save(serial.load(TrainedFold, path).model_copy(update={"start": pretrained}), path)
    (found,) = read_status("phantom", known.folder.path.parent)
    assert found.next_command == "selfseg train phantom 2d 1 --init 'a b' --restart"


def test_a_model_from_elsewhere_does_not_hide_the_others(known: PlannedDataset) -> None:
    workspace = known.folder.path.parent
    save_model(workspace / "foreign", tiny_plan(dataset="foreign"), folds=("0", "all"))
    found = {item.name: item for item in read_status(None, workspace)}
    assert found["foreign"].summary == "a model from elsewhere, 2 folds"
    assert [fold.state for fold in found["foreign"].folds] == ["done", "done"]
    assert (found["foreign"].next_command, found["phantom"].next_command[:7]) == ("", "selfseg")


def test_a_model_from_elsewhere_is_not_planned_over(tmp_path: Path) -> None:
    """Its weights would not fit the new plan: it could not predict any more."""
    folder = save_model(tmp_path / "tiny", tiny_plan(dataset="tiny"))
    before = folder.plan.read_bytes()
    data = write_tiny_dataset(tmp_path / "data", train=2, test=0)
    request = PlanRequest(preprocess=False, device="cpu", workers=0)
    with pytest.raises(SelfSegError, match="holds a model from elsewhere"):
        plan_dataset(str(data), tmp_path, request)
    assert folder.plan.read_bytes() == before


def test_folds_that_are_no_cross_validation_are_refused(known: PlannedDataset) -> None:
    from selfseg.errors import ModelError
    from selfseg.planning import find_selector

    rules = find_selector().selection_rules()
    compare(known, rules)
    known.folder.splits.unlink()  # with folds that are stored it would be left out, see below
    for changes, finding in (
        ({"train_cases": ("case_1", "case_5")}, "was trained on case_1, which it should hold out"),
        ({"validation_cases": ("case_0", "case_5")}, "holds out case_0, as another fold does"),
    ):
        kept = {}
        for name in ("2d", "3d_fullres"):
            path = known.folder.fold(name, "1").description
            kept[path] = serial.load(TrainedFold, path)
            changed = kept[path].model_copy(update=changes)
            digest = _files_digest(known, changed.train_cases)
            serial.save(changed.model_copy(update={"data_digest": digest}), path)
        with pytest.raises(ModelError, match=finding):
            compare(known, rules)
        for path, former in kept.items():
            serial.save(former, path)


def test_a_fold_that_was_trained_on_other_cases_is_left_out(known: PlannedDataset) -> None:
    from selfseg.planning import find_selector

    path = known.folder.fold("2d", "1").description
    cases = ("case_0", "case_4")
    changed = {"train_cases": cases, "data_digest": _files_digest(known, cases)}
    serial.save(serial.load(TrainedFold, path).model_copy(update=changed), path)
    compared = compare(known, find_selector().selection_rules())
    assert compared.folds == ("0", "2")
    note = "2d fold 1 was trained on other cases than its fold has now: left out"
    assert note in compared.notes


def _files_digest(known: PlannedDataset, cases: tuple[str, ...]) -> str:
    from selfseg.inference.trained import files_digest

    return files_digest(known.dataset, cases)


def test_a_cascade_without_its_stage_cannot_be_proposed(known: PlannedDataset) -> None:
    from selfseg.errors import PlanError
    from selfseg.plan_checks import check_plan

    first, second = known.plan.configurations
    names = {"3d_lowres": first, "3d_cascade": second}
    changed = tuple(
        item.model_copy(
            update={"name": name, "previous_stage": "3d_lowres" if "cascade" in name else None}
        )
        for name, item in names.items()
    )
    plan: Plan = known.plan.model_copy(
        update={"configurations": changed, "proposed": ("3d_cascade",)}
    )
    with pytest.raises(PlanError, match="3d_cascade needs 3d_lowres as well"):
        check_plan(plan)
