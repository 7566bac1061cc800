"""Groups of cases that folds must not split: `groups.csv`, or `group` in dataset.json."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfseg.io.description import DESCRIPTION
from selfseg.records.dataset import Case

GROUPS = "groups.csv"


def add_groups(
    cases: Sequence[Case], root: Path, content: Mapping[str, object], complaints: list[str]
) -> list[Case]:
    """Return the cases with their groups; entries for other cases are passed over.

    Args:
        cases: Cases without groups.
        root: Folder that may hold `groups.csv` (columns case, group).
        content: The dataset.json, which may hold `"group": {CASE: GROUP}`.
        complaints: Findings are added here.
    """
    source, groups = declared_groups(root, content, complaints)
    if not groups:
        return list(cases)
    complaints += [
        f"case {case.id}: no group in {source}, though other cases have one; add it"
        for case in cases
        if case.id not in groups
    ]
    return [case.model_copy(update={"group": groups.get(case.id)}) for case in cases]


def declared_groups(
    root: Path, content: Mapping[str, object], complaints: list[str]
) -> tuple[str, dict[str, str]]:
    """Return which file declares groups, and the group of each case; none where none are declared.

    The arguments are those of `add_groups`.
    """
    if "group" in content:
        return DESCRIPTION, _from_description(content["group"], complaints)
    if (root / GROUPS).is_file():
        return GROUPS, _from_table(root / GROUPS, complaints)
    return "", {}


def _from_description(declared: object, complaints: list[str]) -> dict[str, str]:
    if isinstance(declared, dict) and all(isinstance(group, str) for group in declared.values()):
        return dict(declared)
    complaints.append(
        f"{DESCRIPTION}: 'group' must map case ids to names of groups; "
        'write "group": {"CASE": "PATIENT"}'
    )
    return {}


def _from_table(path: Path, complaints: list[str]) -> dict[str, str]:
    groups: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        complaints.append(f"{GROUPS}: cannot be read ({error}); save it as UTF-8 CSV")
        return groups
    for line, row in enumerate(rows, start=2):
        case, group = ((row.get(key) or "").strip() for key in ("case", "group"))
        if not case or not group:
            complaints.append(
                f"{GROUPS}: line {line} lacks a case or a group; the first line must be "
                "'case,group', each other line one case"
            )
            return groups
        if groups.setdefault(case, group) != group:
            complaints.append(
                f"{GROUPS}: line {line} puts case {case} into group {group}, but it is in "
                f"{groups[case]} already; keep one"
            )
    return groups
