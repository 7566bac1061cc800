"""Scores of predictions against references."""

from __future__ import annotations

from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from selfseg.records.challenge import ChaosScores, Sliver07Scores
from selfseg.records.serial import Record

MetricName = Literal["overlap", "sliver07", "chaos", "topology", "lesions"]


class TopologyScores(Record):
    """Whether tubes hang together.

    Attributes:
        betti0_error, betti1_error, betti2_error: Differences of the numbers of components,
            tunnels (holes in 2D) and cavities (None in 2D).
        betti0_window_error, betti1_window_error, betti2_window_error: The same in windows, their
            mean; None if both masks are empty.
        cldice: Dice of center lines; None if both masks are empty.
        thin_recall, thick_recall: Share of thin and thick parts that was found; None where the
            reference has none.
    """

    betti0_error: float | None
    betti1_error: float | None
    betti2_error: float | None
    betti0_window_error: float | None
    betti1_window_error: float | None
    betti2_window_error: float | None
    cldice: float | None
    thin_recall: float | None
    thick_recall: float | None


class LesionScores(Record):
    """Lesions of the reference, of the prediction, and matches of both.

    Sensitivity is None without lesions in the reference, precision without predicted ones, F1
    without either.
    """

    reference_count: float | None
    predicted_count: float | None
    matched_count: float | None
    sensitivity: float | None
    precision: float | None
    f1: float | None


class FieldOfViewScores(Record):
    """Pixels told apart inside a field of view, at 0.5 and at Otsu's threshold.

    The area under the curve and what is Otsu's are None without probabilities; a share is None
    where there is nothing to have a share of.
    """

    auc: float | None
    sensitivity: float | None
    specificity: float | None
    accuracy: float | None
    precision: float | None
    f1: float | None
    otsu_threshold: float | None
    otsu_sensitivity: float | None
    otsu_specificity: float | None
    otsu_accuracy: float | None
    otsu_precision: float | None
    otsu_f1: float | None


Family = Sliver07Scores | ChaosScores | TopologyScores | LesionScores | FieldOfViewScores


class LabelScores(Record):
    """Scores of one label in one case (or their mean); None means undefined.

    Both masks empty: Dice, IoU and NSD are None and the case does not count. One empty: Dice, IoU
    and NSD are 0, distances are None (they would be infinite). Families that were not asked for
    are None, and left out of files.
    """

    dice: float | None
    iou: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_difference_ml: float | None
    sliver07: Sliver07Scores | None = None
    chaos: ChaosScores | None = None
    topology: TopologyScores | None = None
    lesions: LesionScores | None = None
    field_of_view: FieldOfViewScores | None = None

    @model_serializer(mode="wrap")
    def _without_families_not_asked_for(
        self, serialize: SerializerFunctionWrapHandler
    ) -> dict[str, object]:
        fields = type(self).model_fields
        content: dict[str, object] = serialize(self)
        return {
            name: value
            for name, value in content.items()
            if value is not None or fields[name].is_required()
        }


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
