"""What a dataset is: channels, labels, cases, groups, folds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from selfseg.records.serial import Record


class Label(Record):
    """One foreground label; `value` is what stands in the files, any positive integer."""

    name: str
    value: int


class Region(Record):
    """A union of labels that a network segments as one output; regions may overlap.

    Attributes:
        name: Name.
        values: File values of the labels in it.
        value: File value that its voxels get in a label map; later regions overwrite earlier ones.
    """

    name: str
    values: tuple[int, ...]
    value: int


class Targets(Record):
    """What a network segments: exclusive labels (softmax), or regions of them (sigmoid).

    Inside selfseg a label is its index: 0 background, 1 … n the labels in order, and n + 1 what is
    not annotated.

    Attributes:
        labels: Foreground labels, ordered by file value.
        regions: Overlapping unions of labels; empty where labels exclude each other.
        ignore: File value of voxels that are not annotated; None where everything is.
    """

    labels: tuple[Label, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None

    @property
    def outputs(self) -> int:
        """Output channels of a network: regions, or labels with background."""
        return len(self.regions) or len(self.labels) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """What is scored: the regions' names, or the labels'."""
        return tuple(item.name for item in (self.regions or self.labels))

    @property
    def ignore_index(self) -> int | None:
        """Index of voxels that are not annotated."""
        return None if self.ignore is None else len(self.labels) + 1

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Label indices of what is scored: of each region, or of each label alone."""
        if not self.regions:
            return tuple((index,) for index in range(1, len(self.labels) + 1))
        return tuple(tuple(self.index(value) for value in region.values) for region in self.regions)

    def named(self, name: str) -> int:
        """Return the index of the label of a name, whatever its case; 0 if there is none."""
        names = [label.name.casefold() for label in self.labels]
        return 1 + names.index(name.casefold()) if name.casefold() in names else 0

    def index(self, value: int) -> int:
        """Return the label index of a file value."""
        return 1 + [label.value for label in self.labels].index(value)


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
        regions, ignore: See `Targets`.
        cases: Training cases, sorted by id.
    """

    schema_version: Literal[1] = 1
    name: str
    root: str
    layout: Literal["nnunet", "msd"]
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    cases: tuple[Case, ...]

    @property
    def targets(self) -> Targets:
        """What is to be segmented."""
        return Targets(labels=self.labels, regions=self.regions, ignore=self.ignore)

    def with_groups(self, cases: Collection[str]) -> frozenset[str]:
        """Return ids of cases and of all others of their groups: who saw one, saw the patient."""
        groups = self.groups(cases)
        mates = (case.id for case in self.cases if case.group is not None and case.group in groups)
        return frozenset(cases).union(mates)

    def groups(self, cases: Collection[str]) -> frozenset[str]:
        """Return the groups of some cases, of those that name one."""
        wanted = set(cases)
        found = (case.group for case in self.cases if case.id in wanted)
        return frozenset(group for group in found if group is not None)


class Fold(Record):
    """Case ids of one cross-validation fold."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Record):
    """All folds; groups never split. `note` says what is special about them, and where from."""

    schema_version: Literal[1] = 1
    folds: tuple[Fold, ...]
    note: str = ""
