"""Whether cross-validation should try a dense CRF, and over which options it is tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from selfseg.records.crf import CrfGrid
from selfseg.records.fingerprint import Fingerprint, IntensityFacts, LabelSummary
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Decision
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    Normalization,
    PercentileNormalization,
    ZScore,
)

from .shapes import is_compact, is_tubular

LEAST_CONTRAST = 1.0  # median step of intensity at the border, over the spread inside
WEAK_CASES = 30  # with so few, networks leave something to refine
FEWEST_VOXELS = 1000  # smaller labels dissolve in their surroundings
# Standard deviations of intensity in the appearance kernel.
CT_GRID_HU = (10.0, 20.0, 40.0)
BORDER_GRID_SIGMA = (0.25, 0.5, 1.0)  # of the intensities at borders
# A z-scored case has a standard deviation of 1; at borders it is smaller (hippocampus: 0.7).
CASE_GRID_SIGMA = (0.125, 0.25, 0.5, 1.0)


def decide_crf(
    fingerprint: Fingerprint,
    normalization: Sequence[Normalization],
    proposed: Sequence[ConfigurationName],
) -> tuple[CrfGrid | None, Decision]:
    """Nominate a dense CRF where a compact label has contrast at its border and the plan is weak.

    The field refines all labels together, so a single tubular or tiny one vetoes it. Whether it
    helps, `select` finds out.
    """
    vetoes = [reason for label in fingerprint.labels for reason in _vetoes(label)]
    found = [_finding(label) for label in fingerprint.labels]
    fitting = [(contrast, channel, text) for contrast, channel, text in found if contrast]
    weak = _weakness(len(fingerprint.cases), proposed)
    if vetoes or not fitting or not weak:
        missing = vetoes or [text for _, _, text in found if not fitting]
        if not weak:
            count = len(fingerprint.cases)
            missing.append(f"{count} cases (at most {WEAK_CASES}) and no low resolution")
        return None, _decision("not tried", "; ".join(missing) or "no label", "tuned by select")
    contrast, channel, _ = max(fitting)
    facts = fingerprint.intensities[channel]
    thetas = intensity_grid(normalization[channel], facts, contrast)
    grid = CrfGrid(theta_intensity=thetas)
    evidence = "; ".join((*(text for _, _, text in fitting), weak))
    value = f"tuned by select over {grid.draws} combinations"
    return grid, _decision(value, evidence, "not tried")


def intensity_grid(
    normalization: Normalization, facts: IntensityFacts, contrast: float
) -> tuple[float, ...]:
    """Return the standard deviations of intensity to try, in units of the normalized channel.

    Args:
        normalization: Of the channel.
        facts: Foreground intensities of the channel, before normalization.
        contrast: Step at the border over the spread inside.
    """
    match normalization:
        case CTNormalization():
            return tuple(value / normalization.std for value in CT_GRID_HU)
        case ZScore() | PercentileNormalization():
            return CASE_GRID_SIGMA
        case MinMax():
            unit = facts.maximum - facts.minimum
        case FixedScale():
            unit = normalization.divisor
        case NoNormalization():
            unit = 1.0
        case _:
            assert_never(normalization)
    # Half of the voxels at a border are a step away from the others.
    sigma = facts.std * math.hypot(1, contrast / 2) / unit if unit > 0 else 0.0
    return tuple(share * sigma for share in BORDER_GRID_SIGMA) if sigma > 0 else CASE_GRID_SIGMA


def _vetoes(label: LabelSummary) -> list[str]:
    """Return why a label forbids a CRF; a label that no case has does not."""
    reasons = []
    if label.shape is not None and (tubular := is_tubular(label.shape)).holds:
        reasons.append(f"{label.name} is tubular ({tubular.because})")
    if label.share_of_cases > 0 and label.median_voxels < FEWEST_VOXELS:
        reasons.append(
            f"{label.name} has {label.median_voxels:.0f} voxels (asked: at least {FEWEST_VOXELS})"
        )
    return reasons


def _finding(label: LabelSummary) -> tuple[float, int, str]:
    """Return contrast and channel of a label that a CRF may help, contrast 0 of others, and why."""
    shape = label.shape
    if shape is None:
        return 0.0, 0, f"the shape of {label.name} is not known"
    compact = is_compact(shape)
    if not compact.holds:
        return 0.0, 0, f"{label.name} is not compact: {compact.because}"
    values = [value or 0.0 for value in shape.median_contrast]
    contrast = max(values, default=0.0)
    text = f"{label.name} is compact with a contrast of {contrast:.2g} at its border"
    if contrast < LEAST_CONTRAST:
        return 0.0, 0, f"{text} (asked: at least {LEAST_CONTRAST:g})"
    return contrast, values.index(contrast), text


def _weakness(cases: int, proposed: Sequence[ConfigurationName]) -> str:
    """Return why predictions may be weak; '' if they should not be."""
    if cases <= WEAK_CASES:
        return f"{cases} cases (at most {WEAK_CASES})"
    return "3d_lowres is proposed" if "3d_lowres" in proposed else ""


def _decision(value: str, because: str, alternative: str) -> Decision:
    return Decision(
        rule="crf", subject="crf", value=value, because=because, alternatives=(alternative,)
    )
