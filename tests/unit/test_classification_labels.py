"""Tables of classes: what is read, and all complaints at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfseg.classification.labels import (
    NAME_CLASSES,
    WRITE_LINES,
    LabelRow,
    patients_of,
    read_labels,
)
from selfseg.errors import DatasetError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_cases_with_patients_and_further_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.csv",
        "case,group,diagnosis,age\na,p1,malignant,3\nb,p1,benign,\nc,p2,benign,1\n",
    )
    found = read_labels(path, column="diagnosis", positive="malignant")
    assert found.rows[:2] == (LabelRow("a", None, "p1", True), LabelRow("b", None, "p1", False))
    assert (found.positive, found.negative, found.unit) == ("malignant", "benign", "case")


def test_lesions_without_patients(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "case, lesion, label\na,1,1\na,2,0\n\nb,1,0\n")
    found = read_labels(path)
    assert [(row.case, row.lesion, row.group, row.positive) for row in found.rows] == [
        ("a", 1, "a", True),
        ("a", 2, "a", False),
        ("b", 1, "b", False),
    ]
    assert found.unit == "lesion"


def test_patients_are_those_of_the_data_set_where_the_table_names_none(tmp_path: Path) -> None:
    images = tmp_path / "imagesTr"
    images.mkdir()
    path = write(tmp_path / "l.csv", "case,label\na,1\nb,0\n")
    assert patients_of(images) == {}
    write(tmp_path / "groups.csv", "case,group\na,p1\nb,p1\nc,p2\n")
    found = read_labels(path, patients=patients_of(images))
    assert [row.group for row in found.rows] == ["p1", "p1"]
    own = write(tmp_path / "own.csv", "case,label,group\na,1,q1\nb,0,q2\n")
    assert [row.group for row in read_labels(own, patients=patients_of(images)).rows] == [
        "q1",
        "q2",
    ]
    more = write(tmp_path / "more.csv", "case,label\na,1\nd,0\n")
    with pytest.raises(DatasetError, match="line 3: no group"):
        read_labels(more, patients=patients_of(images))
    write(tmp_path / "groups.csv", "case,patient\na,p1\n")
    with pytest.raises(DatasetError, match=r"patients cannot be told apart\n.*groups\.csv: line 2"):
        patients_of(images)


@pytest.mark.parametrize(
    ("classes", "positive"), [("1 0", "1"), ("Yes No", "Yes"), ("false TRUE", "TRUE")]
)
def test_some_names_say_which_class_is_positive(
    tmp_path: Path, classes: str, positive: str
) -> None:
    a, b = classes.split()
    assert (
        read_labels(write(tmp_path / "l.csv", f"case,label\nx,{a}\ny,{b}\n")).positive == positive
    )


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.csv",
        "case,lesion,label,group\na,1,benign,p\n\na,1,benign,p\nb,0,malignant,q\n"
        "c,1,,q\nc,2,odd,r\nd,1\n",
    )
    with pytest.raises(DatasetError) as caught:
        read_labels(path)
    text = str(caught.value)
    for finding in (
        "line 4: case a stands in line 2 already",
        "line 5: lesion '0' is no number from 1 on",
        "line 6: no label",
        "line 7: case c is in group q already",
        "line 8: no label, no group",
        "has 3 classes ('benign', 'malignant', 'odd'), not two",
    ):
        assert finding in text
    assert len(caught.value.complaints) == 6


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "has no lines"),
        ("case,label\n", "has no lines"),
        ("id,class\na,1\n", "no column 'case' (there are: id, class)"),
        ("case,label\na,benign\nb,malignant\n", "Say it with --positive"),
        ("case,label\na,1\nb,1\n", "has 1 class ('1'), not two"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, text: str, finding: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_labels(write(tmp_path / "l.csv", text))
    assert finding in str(caught.value)


@pytest.mark.parametrize(
    ("content", "positive", "finding", "remedy"),
    [
        (None, None, "l.csv: labels cannot be read", "Check the path after -l."),
        (b"case,label\na,\xff\n", None, "labels cannot be read", "Save it as UTF-8 CSV."),
        (
            b"case,age,diagnosis\na,3,benign\nb,4,malignant\n",
            None,
            "no column 'label' (there are: case, age, diagnosis)",
            "Name the column of the two classes with --label-column: age or diagnosis.",
        ),
        (b"case\na\nb\n", None, "no column 'label'", WRITE_LINES),
        (b"case,label\n", None, "has no lines below its header", WRITE_LINES),
        (b"id,label\na,1\nb,0\n", None, "no column 'case'", WRITE_LINES),
        (
            b"case,label\na,benign\nb,malignant\n",
            "Malig",
            "--positive Malig: not in column 'label' ('benign', 'malignant')",
            NAME_CLASSES,
        ),
        (b"case,label\na,benign\na,malignant\n", "tumor", "keep one", WRITE_LINES),
    ],
    ids=["path", "coding", "label-column", "no-label", "no-lines", "no-case", "positive", "lines"],
)
def test_the_remedy_fits_what_was_found(
    tmp_path: Path, content: bytes | None, positive: str | None, finding: str, remedy: str
) -> None:
    path = tmp_path / "l.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_labels(path, positive=positive)
    assert finding in str(caught.value)
    assert caught.value.remedy == remedy


def test_a_missing_file_and_an_unknown_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
    path = write(tmp_path / "l.csv", "case,label\na,benign\nb,malignant\n")
    with pytest.raises(DatasetError, match="--positive tumor: not in column 'label'"):
        read_labels(path, positive="tumor")
