"""Metrics and scores of two public challenges: SLIVER07 and CHAOS."""

from __future__ import annotations

from selfseg.records.serial import Record


class Sliver07Scores(Record):
    """Errors and scores of the SLIVER07 challenge; None means undefined (empty reference).

    Attributes:
        voe_percent: Volumetric overlap error.
        rvd_percent: Relative volume difference, with its sign: above 0 is too much.
        asd_mm, rmsd_mm, msd_mm: Mean, root mean square and maximum of the border distances.
        voe_score, rvd_score, asd_score, rmsd_score, msd_score: 0 to 100; 75 is a human rater.
        total_score: Their mean.
    """

    voe_percent: float | None
    rvd_percent: float | None
    asd_mm: float | None
    rmsd_mm: float | None
    msd_mm: float | None
    voe_score: float | None
    rvd_score: float | None
    asd_score: float | None
    rmsd_score: float | None
    msd_score: float | None
    total_score: float | None


class ChaosScores(Record):
    """Metrics and scores of the CHAOS challenge; None means undefined (empty reference).

    An empty result has no distances; their scores are 0.

    Attributes:
        dice: Dice coefficient, 0 to 1.
        ravd_percent: Relative absolute volume difference.
        assd_mm, mssd_mm: Mean and maximum of the border distances.
        dice_score, ravd_score, assd_score, mssd_score: 0 to 100.
        total_score: Their mean.
    """

    dice: float | None
    ravd_percent: float | None
    assd_mm: float | None
    mssd_mm: float | None
    dice_score: float | None
    ravd_score: float | None
    assd_score: float | None
    mssd_score: float | None
    total_score: float | None
