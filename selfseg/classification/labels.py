"""Read which case or lesion is of which class: a CSV file, with all complaints at once."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.io.description import DESCRIPTION, read_description
from selfseg.io.groups import GROUPS, declared_groups
from selfseg.records.classification import Unit
from selfseg.words import counted

# Names that say themselves which class is the positive one.
POSITIVE = {"1": "0", "yes": "no", "true": "false", "positive": "negative"}
SHOWN = 12  # complaints; more of one kind help nobody
WRITE_LINES = "Write one line a case (or lesion) under 'case,label,group'."
NAME_CLASSES = (
    "Name a column of two classes with --label-column, and one of its classes with --positive."
)


@dataclass(frozen=True)
class LabelRow:
    """The class of one case (`lesion` is None) or of one of its lesions."""

    case: str
    lesion: int | None
    group: str
    positive: bool

    @property
    def name(self) -> str:
        """What is labeled, for messages."""
        return self.case if self.lesion is None else f"{self.case} lesion {self.lesion}"


@dataclass(frozen=True)
class Labels:
    """All labeled cases or lesions, and the names of the two classes."""

    rows: tuple[LabelRow, ...]
    positive: str
    negative: str
    unit: Unit


def read_labels(
    path: Path,
    *,
    column: str = "label",
    positive: str | None = None,
    patients: Mapping[str, str] | None = None,
) -> Labels:
    """Read a table of classes.

    Args:
        path: CSV file with the columns `case`, the label's, and if wanted `lesion` (number of the
            component, as in `selfseg measure`) and `group` (patient). Further ones are ignored.
        column: Name of the label's column.
        positive: Class whose probability is wanted. Default: 1, yes, true or positive.
        patients: Patient of each case, for tables without `group`. Without both every case is a
            group of its own.

    Raises:
        DatasetError: All complaints about the file.
    """
    complaints: list[str] = []
    header, lines = _read(path, complaints)
    complaints += [
        f"no column {name!r} (there are: {', '.join(header)})"
        for name in ("case", column)
        if header and name not in header
    ]
    _raise_all(path, complaints, _columns_remedy(header, column))
    known = {} if "group" in header else patients or {}
    rows = _rows(lines, column, header, known, complaints)
    remedy = WRITE_LINES if complaints else NAME_CLASSES
    classes = sorted({label for *_, label in rows if label})
    chosen = _positive(classes, positive, column, complaints)
    _raise_all(path, complaints, remedy)
    return Labels(
        rows=tuple(
            LabelRow(case, lesion, group, label == chosen) for case, lesion, group, label in rows
        ),
        positive=chosen,
        negative=next(name for name in classes if name != chosen),
        unit="lesion" if "lesion" in header else "case",
    )


def patients_of(images: Path) -> Mapping[str, str]:
    """Return the patient of each case of the data set that images belong to; empty if unknown.

    That is its groups.csv, or `group` in its dataset.json, in the folder of the images or its
    parent.

    Raises:
        DatasetError: They cannot be read; all complaints.
    """
    for folder in (images, images.resolve().parent):
        described = (folder / DESCRIPTION).is_file()
        content = read_description(folder).content if described else {}
        complaints: list[str] = []
        _, found = declared_groups(folder, content, complaints)
        if complaints:
            raise DatasetError(
                f"{folder}: patients cannot be told apart",
                complaints=complaints,
                remedy=f"Correct {GROUPS}, or add a column 'group' to the labels.",
            )
        if found:
            return found
    return {}


def _columns_remedy(header: Sequence[str], column: str) -> str:
    """Return what to do where a column is missing: the classes may stand in another one."""
    others = [name for name in header if name not in ("case", "group", "lesion")]
    if "case" not in header or column in header or not others:
        return WRITE_LINES
    return f"Name the column of the two classes with --label-column: {' or '.join(others)}."


def _raise_all(path: Path, complaints: Sequence[str], remedy: str) -> None:
    if not complaints:
        return
    more = len(complaints) - SHOWN
    shown = [*complaints[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
    raise DatasetError(
        f"{path}: labels cannot be used",
        complaints=shown,
        remedy=remedy,
    )


def _read(path: Path, complaints: list[str]) -> tuple[tuple[str, ...], dict[int, dict[str, str]]]:
    """Return the header, and the other lines by their number in the file.

    Raises:
        DatasetError: Not there, or no CSV file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            lines = ((reader.line_num, [cell.strip() for cell in line]) for line in reader)
            written = [(number, line) for number, line in lines if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        lost = isinstance(error, OSError)
        raise DatasetError(
            f"{path}: labels cannot be read ({error})",
            remedy="Check the path after -l." if lost else "Save it as UTF-8 CSV.",
        ) from error
    if len(written) < 2:
        complaints.append("has no lines below its header; write one a case")
    header = tuple(written[0][1]) if written else ()
    # A short line lacks its last values: they are empty, and complained about.
    return header, {
        number: dict(zip_longest(header, line[: len(header)], fillvalue=""))
        for number, line in written[1:]
    }


def _rows(
    lines: Mapping[int, Mapping[str, str]],
    column: str,
    header: Sequence[str],
    patients: Mapping[str, str],
    complaints: list[str],
) -> list[tuple[str, int | None, str, str]]:
    """Return case, lesion, group and label of each line."""
    rows: list[tuple[str, int | None, str, str]] = []
    seen: dict[tuple[str, int | None], int] = {}
    groups: dict[str, str] = {}
    for number, line in lines.items():
        case, label = line.get("case", ""), line.get(column, "")
        own = patients.get(case, "") if patients else case
        group = line.get("group", "") if "group" in header else own
        written = line.get("lesion", "")
        missing = [
            name for name, value in (("case", case), (column, label), ("group", group)) if not value
        ]
        lesion = int(written) if written.isdecimal() and int(written) > 0 else None
        if missing:
            complaints.append(f"line {number}: no {', no '.join(missing)}; fill it in")
        if "lesion" in header and lesion is None:
            complaints.append(f"line {number}: lesion {written!r} is no number from 1 on")
        if (case, lesion) in seen:
            complaints.append(
                f"line {number}: case {case} stands in line {seen[case, lesion]} already; keep one"
            )
        if groups.setdefault(case, group) != group:
            complaints.append(f"line {number}: case {case} is in group {groups[case]} already")
        seen.setdefault((case, lesion), number)
        rows.append((case, lesion, group, label))
    return rows


def _positive(classes: Sequence[str], asked: str | None, column: str, complaints: list[str]) -> str:
    """Return the positive class; complain unless there are two classes and one is known for it."""
    names = ", ".join(map(repr, classes[:6])) + (", …" if len(classes) > 6 else "")
    if len(classes) != 2:
        complaints.append(
            f"column {column!r} has {counted(len(classes), 'class')} ({names}), not two"
        )
        return ""
    if asked is not None:
        if asked not in classes:
            complaints.append(f"--positive {asked}: not in column {column!r} ({names})")
        return asked
    for name, other in POSITIVE.items():
        found = {text.casefold(): text for text in classes}
        if name in found and other in found:
            return found[name]
    complaints.append(f"which of {names} is the positive class? Say it with --positive")
    return ""
