"""The user's own folds: both formats, and all complaints at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plannerfacts import make_dataset

from selfseg.errors import DatasetError, RecordError
from selfseg.io.splits import check_folds, find_splits, read_splits, read_stored_splits
from selfseg.records import serial
from selfseg.records.dataset import Fold

A, B, C, D = (f"case_{n:03}" for n in range(4))


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_both_formats_give_the_same_folds(tmp_path: Path) -> None:
    listed = [{"train": [A, B], "val": [C, D]}, {"train": [C, D], "val": [A, B]}]
    theirs = read_splits(written(tmp_path / "splits_final.json", listed), make_dataset(4))
    assert theirs.folds[0] == Fold(train=(A, B), validation=(C, D))
    assert theirs.note == "taken from splits_final.json"
    ours = tmp_path / "splits.json"
    serial.save(theirs, ours)
    assert read_splits(ours, make_dataset(4)).folds == theirs.folds


def test_selfsegs_own_name_comes_first(tmp_path: Path) -> None:
    assert find_splits(tmp_path) is None
    final = written(tmp_path / "splits_final.json", [])
    assert find_splits(tmp_path) == final
    assert find_splits(tmp_path) != written(tmp_path / "splits.json", [])
    assert find_splits(tmp_path) == tmp_path / "splits.json"


def complaints_about(folds: list[tuple[list[str], list[str]]], groups: tuple[str, ...] = ()) -> str:
    made = tuple(Fold(train=tuple(t), validation=tuple(v)) for t, v in folds)
    with pytest.raises(DatasetError) as error:
        check_folds(made, make_dataset(4, groups=groups), Path("splits.json"))
    assert error.value.remedy
    return str(error.value)


@pytest.mark.parametrize(
    ("folds", "complaint"),
    [
        ([], "no folds"),
        ([([A, "other"], [B])], "fold 0: other: no such case"),
        ([([A, B], [B, C])], "fold 0: case_001: in train and validation"),
        ([([A, B], [])], "fold 0: validation is empty"),
        ([([], [A, B])], "fold 0: train is empty"),
        ([([A, A], [B])], "fold 0: train lists case_000 more than once"),
        ([([A], [B]), ([C], [B])], "validated in more than one fold: case_001"),
    ],
)
def test_each_finding_is_named(folds: list[tuple[list[str], list[str]]], complaint: str) -> None:
    assert complaint in complaints_about(folds)


def test_a_group_on_both_sides_is_a_leak() -> None:
    text = complaints_about([([A, C], [B, D])], groups=("anna", "anna", "ben", "carl"))
    assert "fold 0: group anna: cases in train and in validation" in text


def test_all_findings_come_at_once() -> None:
    text = complaints_about([([A, "x"], [A]), ([B], []), ([C], [A])])
    for part in ("fold 0: x: no such case", "in train and validation", "fold 1", "more than one"):
        assert part in text


def test_what_the_folds_leave_out_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "splits.json", [{"train": [A], "val": [B]}])
    note = read_splits(path, make_dataset(4)).note
    assert note == "taken from splits.json; 2 cases are in no fold; 1 case is never validated"


def test_a_part_of_the_dataset_takes_its_part_of_the_folds(tmp_path: Path) -> None:
    listed = [{"train": [A, "case_009"], "val": [B]}, {"train": [B], "val": [A, "case_008"]}]
    path = written(tmp_path / "splits.json", listed)
    assert read_splits(path, make_dataset(2), part=True).folds == (
        Fold(train=(A,), validation=(B,)),
        Fold(train=(B,), validation=(A,)),
    )
    with pytest.raises(DatasetError, match="case_009: no such case"):
        read_splits(path, make_dataset(2))


def test_a_single_patient_need_not_be_validated() -> None:
    fold = Fold(train=(A, B), validation=())
    check_folds((fold,), make_dataset(2, groups=("anna", "anna")), Path("splits.json"))


@pytest.mark.parametrize(
    "content", ["{", '[{"train": ["a"]}]', '[{"train": ["a"], "val": [1]}]', '"folds"', "[3]"]
)
def test_what_is_no_list_of_folds(tmp_path: Path, content: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"splits\.json") as error:
        read_splits(path, make_dataset(2))
    assert error.value.remedy


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    folds = [Fold(train=(A,), validation=(B,)).model_dump()]
    path = written(tmp_path / "splits.json", {"schema_version": 1, "foldz": folds})
    with pytest.raises(RecordError, match="foldz"):
        read_splits(path, make_dataset(2))


def test_nnunets_list_in_a_workspace_is_refused_with_the_place_where_it_is_read(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "splits.json", [{"train": [A], "val": [B]}])
    with pytest.raises(RecordError, match=r"splits\.json: not a valid Splits") as caught:
        read_stored_splits(path)
    assert '{"folds": [{"train"' in caught.value.remedy
    assert "beside the data, as splits_final.json" in caught.value.remedy
    folds = [Fold(train=(A,), validation=(B,)).model_dump()]
    assert read_stored_splits(written(path, {"folds": folds})).folds[0].validation == (B,)
