"""A plan that is there: looked at without a change, and not replaced by name by one of less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commandline import write_tiny_dataset
from tinymodel import save_model, tiny_plan

from selfseg.cli.plan import plan as plan_command
from selfseg.errors import PlanError
from selfseg.pipeline import plan_dataset, shown_plan
from selfseg.records import serial
from selfseg.records.plan import Plan
from selfseg.records.transfer import Start
from selfseg.requests import PlanRequest, StartRequest

REQUEST = PlanRequest(device="cpu", workers=1, preprocess=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=6)


@pytest.fixture
def part(data: Path, tmp_path: Path) -> Path:
    """Return a list of five of six cases, which a plan was made for."""
    path = tmp_path / "cases.txt"
    path.write_text("\n".join(f"case_{index:03d}" for index in range(5)))
    plan_dataset(str(data), tmp_path, replace(REQUEST, cases=path))
    return path


def written(workspace: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(workspace.rglob("*.json"))}


def test_a_name_with_explain_alone_shows_the_plan_and_changes_nothing(
    data: Path, part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path)
    plan_command("tiny", workspace=tmp_path, explain=True)
    assert "What all configurations share" in capsys.readouterr().out
    plan_command("tiny", workspace=tmp_path, explain=True, json=True)
    shown = Plan.model_validate_json(capsys.readouterr().out)
    assert shown == serial.load(Plan, tmp_path / "tiny" / "plan.json")
    assert written(tmp_path) == before
    for request in (PlanRequest(settings=("proposed=[]",)), PlanRequest(cases=part)):
        assert shown_plan("tiny", tmp_path, request) is None
    assert shown_plan(str(data), tmp_path, PlanRequest()) is None
    assert shown_plan("other", tmp_path, PlanRequest()) is None


def test_a_part_of_the_cases_is_not_given_up_by_name(
    data: Path, part: Path, tmp_path: Path
) -> None:
    before = written(tmp_path)
    assert shown_plan("tiny", tmp_path, replace(REQUEST, device="cpu")) is not None
    with pytest.raises(
        PlanError, match=r"was made for 5 of the 6 cases that are there now \(--cases\)"
    ) as caught:
        plan_dataset("tiny", tmp_path, replace(REQUEST, settings=("proposed=[]",)))
    assert f"'selfseg plan {data}'" in caught.value.remedy
    assert written(tmp_path) == before
    again = plan_dataset("tiny", tmp_path, replace(REQUEST, cases=part))
    assert len(again.dataset.cases) == 5
    whole = plan_dataset(str(data), tmp_path, REQUEST)
    assert len(whole.dataset.cases) == 6
    plan_dataset("tiny", tmp_path, REQUEST)


def test_neither_are_values_that_were_set(data: Path, tmp_path: Path) -> None:
    batch = "configurations.3d_fullres.batch=5"
    plan_dataset(str(data), tmp_path, replace(REQUEST, settings=(batch,)))
    with pytest.raises(PlanError, match=rf"was made with {batch} \(--set\)"):
        plan_dataset("tiny", tmp_path, REQUEST)
    other = replace(REQUEST, settings=("configurations.3d_fullres.batch=6",))
    assert plan_dataset("tiny", tmp_path, other).plan.configurations[-1].batch >= 2


def test_neither_is_the_model_to_start_from_nor_a_second_data_set(
    data: Path, tmp_path: Path
) -> None:
    other = write_tiny_dataset(tmp_path / "more", train=2, test=0, name="more", seed=5)
    made = plan_dataset(str(data), tmp_path, replace(REQUEST, auxiliary=str(other)))
    changed = made.plan.model_copy(update={"init": Start(folder="elsewhere")})
    serial.save(changed, made.folder.plan)
    with pytest.raises(PlanError, match=r"start from elsewhere .--init. and with the data of more"):
        plan_dataset("tiny", tmp_path, REQUEST)
    save_model(tmp_path / "model", tiny_plan(dataset="model"))
    both = replace(
        REQUEST, auxiliary=str(other), start=StartRequest(tmp_path / "model", None, None)
    )
    with pytest.raises(PlanError) as caught:
        plan_dataset("tiny", tmp_path, both)
    assert "was made" not in caught.value.message  # it is another matter that this model fits not
