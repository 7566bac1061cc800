"""Which labels a folder of references has: from a dataset.json beside it, else from the voxels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from selfseg.records.dataset import Label

DESCRIPTION = "dataset.json"


def declared_labels(references: Path) -> tuple[Label, ...]:
    """Return the labels of a dataset.json in the folder or its parent; empty if there are none.

    Both conventions are read: names to values (nnU-Net v2) and values to names (Medical
    Segmentation Decathlon). Unions of labels are not labels of their own and left out.
    """
    for folder in (references, references.resolve().parent):
        entries = _entries(folder / DESCRIPTION)
        if entries:
            found = {label.value: label for label in _labels(entries) if label.value > 0}
            return tuple(found[value] for value in sorted(found))
    return ()


def numbered_labels(values: Iterable[int]) -> tuple[Label, ...]:
    """Return labels named after the values that occur, without background."""
    return tuple(Label(name=f"label_{v}", value=v) for v in sorted(set(values)) if v != 0)


def _entries(path: Path) -> dict[str, object]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = described.get("labels") if isinstance(described, dict) else None
    return entries if isinstance(entries, dict) else {}


def _labels(entries: dict[str, object]) -> Iterable[Label]:
    for key, entry in entries.items():
        if isinstance(entry, int):
            yield Label(name=key, value=entry)
        elif isinstance(entry, str) and key.isdecimal():
            yield Label(name=entry, value=int(key))
