"""Families of metrics beside the usual ones: which are wanted, and all of them for one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfseg.evaluation.challenge import chaos, sliver07
from selfseg.evaluation.field_of_view import field_of_view_scores
from selfseg.evaluation.lesions import lesion_scores
from selfseg.evaluation.topology import topology_scores
from selfseg.records.dataset import Targets
from selfseg.records.metrics import Family, LabelScores, MetricName
from selfseg.records.serial import Triple


@dataclass(frozen=True)
class Further:
    """What is wanted beside the usual metrics.

    Attributes:
        names: Families; `overlap`, the usual ones, may be among them and adds nothing.
        field_of_view: Masks (a folder of them, or that of one case): nothing else counts.
    """

    names: tuple[MetricName, ...] = ()
    field_of_view: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is more to compute than the usual metrics."""
        return self.field_of_view is not None or bool(set(self.names) - {"overlap"})


NOTHING_FURTHER = Further()


@dataclass(frozen=True)
class Maps:
    """Two label maps of one grid.

    Attributes:
        prediction: Label indices (z, y, x), 0 to the number of labels.
        reference: The same; what is not annotated has the index `targets.ignore_index`.
        targets: What is scored: labels, or regions.
        spacing_mm: Voxel size.
        inside: Field of view, boolean; None for all of it.
    """

    prediction: np.ndarray
    reference: np.ndarray
    targets: Targets
    spacing_mm: Triple
    inside: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray | None:
        """Where voxels count: annotated, and in the field of view; None for everywhere."""
        if self.targets.ignore_index is None:
            return self.inside
        annotated: np.ndarray = self.reference != self.targets.ignore_index
        return annotated if self.inside is None else annotated & self.inside


def mask_of(indices: np.ndarray, group: Sequence[int]) -> np.ndarray:
    """Return where a label map has one of a group of labels."""
    return indices == group[0] if len(group) == 1 else np.isin(indices, group)


def add_families(
    scores: Mapping[str, LabelScores],
    maps: Maps,
    names: Sequence[MetricName],
    probabilities: Sequence[np.ndarray] | None,
) -> dict[str, LabelScores]:
    """Return scores by name, with those of the wanted families added.

    Args:
        scores: The usual ones.
        maps: What was scored.
        names: Families.
        probabilities: Of each label or region (z, y, x), for a field of view; None if unknown.
    """
    known, spacing_mm = maps.known, maps.spacing_mm
    added = {}
    for place, (name, group) in enumerate(
        zip(maps.targets.names, maps.targets.members, strict=True)
    ):
        a, b = mask_of(maps.prediction, group), mask_of(maps.reference, group)
        families: dict[str, Family | None] = {
            "sliver07": sliver07(a, b, spacing_mm, known) if "sliver07" in names else None,
            "chaos": chaos(a, b, spacing_mm, known) if "chaos" in names else None,
            "topology": topology_scores(a, b, known) if "topology" in names else None,
            "lesions": lesion_scores(a, b, known) if "lesions" in names else None,
        }
        if maps.inside is not None and known is not None:
            values = a if probabilities is None else probabilities[place]
            families["field_of_view"] = field_of_view_scores(values, b, known)
        added[name] = scores[name].model_copy(update=families)
    return added
