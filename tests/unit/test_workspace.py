"""Workspace: names, records on disk, and finding a planned data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfseg.errors import DatasetError, RecordError, SelfSegError
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Fold, Splits
from selfseg.requests import parse_duration_s, read_case_list
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import planned_folder, workspace_root


def test_workspace_is_option_then_variable_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFSEG_WORKSPACE", raising=False)
    assert workspace_root(None) == Path("selfseg_workspace")
    monkeypatch.setenv("SELFSEG_WORKSPACE", "elsewhere")
    assert workspace_root(None) == Path("elsewhere")
    assert workspace_root(Path("here")) == Path("here")


@pytest.mark.parametrize("how", ["name", "folder", "declared"])
def test_planned_dataset_is_found_by_name_or_folder(tmp_path: Path, how: str) -> None:
    name = "liver"
    planned = DatasetFolder(tmp_path / "ws" / name)
    planned.plan.parent.mkdir(parents=True)
    planned.plan.write_text("{}")
    data = tmp_path / ("Task03" if how == "declared" else name)
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps({"name": name} if how == "declared" else {}))
    asked = name if how == "name" else str(data)
    assert planned_folder(tmp_path / "ws", asked) == planned


def test_the_folder_in_the_workspace_is_no_other_data_set(tmp_path: Path) -> None:
    planned, data = DatasetFolder(tmp_path / "ws" / "liver"), tmp_path / "liver"
    data.mkdir()
    record = Dataset(
        name="liver", root=str(data), layout="nnunet", channels=("CT",), labels=(), cases=()
    )
    serial.save(record, planned.dataset)
    planned.plan.write_text("{}")
    assert planned_folder(tmp_path / "ws", str(planned.path)) == planned
    (tmp_path / "other" / "liver").mkdir(parents=True)
    (tmp_path / "other" / "liver" / "dataset.json").write_text("{}")  # named by its folder
    with pytest.raises(SelfSegError, match="holds another dataset of this name"):
        planned_folder(tmp_path / "ws", str(tmp_path / "other" / "liver"))


def test_unplanned_dataset_lists_what_is_planned(tmp_path: Path) -> None:
    (tmp_path / "liver").mkdir()
    (tmp_path / "liver" / "plan.json").write_text("{}")
    with pytest.raises(SelfSegError, match=r"kidney.*liver") as caught:
        planned_folder(tmp_path, "kidney")
    assert caught.value.remedy.startswith("Give one of these names")
    data = tmp_path / "my data"
    data.mkdir()
    with pytest.raises(SelfSegError) as caught:
        planned_folder(tmp_path, str(data))
    assert f"selfseg plan '{data}'" in caught.value.remedy


def test_record_round_trip_and_strictness(tmp_path: Path) -> None:
    splits = Splits(folds=(Fold(train=("a",), validation=("b",)),), note="x")
    path = tmp_path / "deep" / "splits.json"
    serial.save(splits, path)
    assert serial.load(Splits, path) == splits
    assert [p.name for p in path.parent.iterdir()] == ["splits.json"]
    path.write_text(path.read_text().replace('"train"', '"trian"'))
    with pytest.raises(RecordError, match=r"splits\.json.*\$\.folds\[0\]\.trian"):
        serial.load(Splits, path)
    path.write_text('{"folds": [{"train": "a", "validation": []}]}')
    with pytest.raises(RecordError, match=r"\$\.folds\[0\]\.train"):
        serial.load(Splits, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="cannot be read"):
        serial.load(Splits, path)


def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    serial.write_text("old", path)

    def full(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        serial.write_text("new", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("7", 7), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["soon", "0s", "-5m", "5 weeks", "1h30"])
def test_no_durations(text: str) -> None:
    with pytest.raises(SelfSegError, match="not a duration"):
        parse_duration_s(text)


def test_case_ids_stand_one_a_line_and_may_hold_spaces(tmp_path: Path) -> None:
    path = tmp_path / "cases.txt"
    path.write_text("\ufeffpatient 1\r\n\n  patient 2 \npatient_3", encoding="utf-8")
    assert read_case_list(path) == ("patient 1", "patient 2", "patient_3")
    path.write_text("\n  \n")
    with pytest.raises(SelfSegError, match="names no case"):
        read_case_list(path)
    assert read_case_list(None) is None


def test_errors_cross_process_borders_whole() -> None:
    from multiprocessing.reduction import ForkingPickler

    error = DatasetError("bad", complaints=("one", "two"), remedy="mend")
    again = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert type(again) is DatasetError
    assert (again.complaints, again.remedy) == (("one", "two"), "mend")
    assert str(again) == str(error)
    assert "• one" in str(error)
    assert "mend" in str(error)
