"""What a dataset is: channels, labels, cases, groups, folds."""

from __future__ import annotations

from typing import Literal

from selfseg.records.serial import Record


class Label(Record):
    """One foreground label; `value` is what stands in the files, any positive integer."""

    name: str
    value: int


class File(Record):
    """A file that was read: path relative to the dataset's root (or absolute), and its digest."""

    path: str
    size: int = 0
    modified_ns: int = 0
    digest: str = ""


class Case(Record):
    """One examination: images (concatenated they give all channels) and an optional reference."""

    id: str
    images: tuple[File, ...]
    reference: File | None = None
    group: str | None = None


class Dataset(Record):
    """A dataset read in place.

    Attributes:
        name: Folder name of the workspace.
        root: Absolute folder that relative paths refer to.
        layout: On-disk convention it was read from.
        channels: Name of each channel in order.
        labels: Foreground labels, ordered by file value; index 0 of a network is background.
        cases: Training cases, sorted by id.
    """

    schema_version: Literal[1] = 1
    name: str
    root: str
    layout: Literal["nnunet", "msd"]
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    cases: tuple[Case, ...]


class Fold(Record):
    """Case ids of one cross-validation fold."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Record):
    """All folds; groups never split. `note` says why there are fewer folds than asked for."""

    schema_version: Literal[1] = 1
    folds: tuple[Fold, ...]
    note: str = ""
