"""Features of labeled regions as arrays, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

DEEP = "deep_"  # names of features of a network begin with it


@dataclass(frozen=True)
class FeatureTable:
    """Features of regions.

    Attributes:
        names: Of the features.
        values: (regions, features), finite.
        readings: (regions, readings, features): the same under other contours; no readings where
            there are none. Deep features have none of their own: theirs repeat `values`.
        positives: (regions,) True for the positive class.
        groups: Patient of each region.
    """

    names: tuple[str, ...]
    values: Floats
    readings: Floats
    positives: Bools
    groups: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together: a mistake of ours."""
        n, f = self.values.shape
        shapes = (self.readings.shape[0], self.positives.shape[0], self.groups.shape[0])
        if len(self.names) != f or shapes != (n, n, n) or self.readings.shape[2] != f:
            raise ValueError("names, values, readings, positives and groups do not fit")

    def take(self, rows: Rows) -> FeatureTable:
        """Return some of the regions."""
        return FeatureTable(
            self.names,
            self.values[rows],
            self.readings[rows],
            self.positives[rows],
            self.groups[rows],
        )

    @property
    def num_groups(self) -> int:
        """Number of patients."""
        return len(np.unique(self.groups))

    @property
    def deep(self) -> tuple[int, ...]:
        """Columns of the features of a network."""
        return tuple(i for i, name in enumerate(self.names) if name.startswith(DEEP))


def rarer_groups(positives: Bools, groups: Sequence[str] | npt.NDArray[np.str_]) -> int:
    """Return the number of patients with a region of the class that fewer patients have."""
    names = np.asarray(groups)
    return min(len(np.unique(names[positives])), len(np.unique(names[~positives])))
