"""Scores of predictions against references."""

from __future__ import annotations

from selfseg.records.serial import Record


class LabelScores(Record):
    """Scores of one label in one case (or their mean); None means undefined.

    Both masks empty: Dice, IoU and NSD are None and the case does not count. One empty: Dice, IoU
    and NSD are 0, distances are None (they would be infinite).
    """

    dice: float | None
    iou: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_difference_ml: float | None


class CaseScores(Record):
    """Scores of one case by label name."""

    case: str
    labels: dict[str, LabelScores]


class MetricsTable(Record):
    """What `selfseg evaluate` gives: mean over labels, mean per label, every case.

    `basis` is a digest of what was scored, where the scores are kept to be used again.
    """

    mean: LabelScores
    labels: dict[str, LabelScores]
    cases: tuple[CaseScores, ...]
    basis: str = ""
