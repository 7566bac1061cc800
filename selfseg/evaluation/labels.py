"""What a folder of references shows: from a dataset.json beside it, else from the voxels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.io.targets import read_targets
from selfseg.records.dataset import Label, Targets

DESCRIPTION = "dataset.json"


def declared_targets(references: Path) -> Targets | None:
    """Return the labels, regions and ignore value of a dataset.json in the folder or its parent.

    Returns:
        None if there is no such file, or it declares no labels.

    Raises:
        DatasetError: What it declares is contradictory; all complaints.
    """
    for folder in (references, references.resolve().parent):
        path = folder / DESCRIPTION
        content = _content(path)
        if not content.get("labels"):
            continue
        complaints: list[str] = []
        targets = read_targets(content, complaints)
        if complaints:
            raise DatasetError(
                f"{path}: does not say what is to be scored",
                complaints=complaints,
                remedy="Correct it, or move the references away from it to score every value.",
            )
        return targets
    return None


def numbered_targets(values: Iterable[int]) -> Targets:
    """Return labels named after the values that occur, without background."""
    found = sorted(set(values) - {0})
    return Targets(labels=tuple(Label(name=f"label_{value}", value=value) for value in found))


def _content(path: Path) -> dict[str, object]:
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}
