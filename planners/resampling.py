"""How images, label maps and probabilities are resampled: nnU-Net's spline orders."""

from __future__ import annotations

from selfseg.records.plan import Decision
from selfseg.records.preprocessing import Resampling


def decide_resampling() -> tuple[Resampling, Decision]:
    """Resample smoothly in the plane, and by the nearest slice across very coarse ones."""
    value = Resampling()
    decision = Decision(
        rule="resampling",
        subject="resampling",
        value=f"spline order {value.order_image} for images, {value.order_label} for labels and "
        f"{value.order_probabilities} for probabilities",
        because="cubic splines keep fine detail of images, and linear ones of labels cannot ring; "
        f"an axis more than {value.separate_axis_ratio:g} times coarser than another is resampled "
        f"on its own with order {value.order_separate}, so that slices do not bleed",
    )
    return value, decision
