"""How each channel is normalized: from its name, and from the measured intensities."""

from __future__ import annotations

import re

from selfseg.records.fingerprint import Fingerprint, IntensityFacts
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

MASK_BELOW = 0.75  # median share of the image that is nonzero, below which the mask counts
LARGEST_BYTE = 255.0
KINDS = ("ct", "zscore", "percentile", "min_max", "fixed_scale", "none")

CT = re.compile(r"ct|cta|ct[ _-].*|.*[ _-]ct|computed[ _-]?tomography.*")
NUCLEAR = {
    "pet",
    "spect",
    "suv",
    "fdg",
    "psma",
}  # PET-CT names the examination, not Hounsfield units
COLOR = re.compile(r"r|g|b|red|green|blue|rgb|gr[ae]y")
MR = re.compile(
    r"(mri?|t1|t2|pd|flair|dwi|adc|swi|dce|mra|bold|b\d+|t1\w*|t2\w*|cine|mprage)([ _-].*)?"
    r"|.*[ _-](mri?|flair|t1|t2)"
)


def decide_normalization(
    channels: tuple[str, ...], fingerprint: Fingerprint
) -> tuple[tuple[Normalization, ...], tuple[Decision, ...]]:
    """Choose one normalization a channel; names are matched without case and with variants."""
    chosen, decisions = [], []
    for index, (name, facts) in enumerate(zip(channels, fingerprint.intensities, strict=True)):
        integers = all(case.integer_intensities for case in fingerprint.cases)
        value, because = _choose(name, facts, fingerprint.median_relative_size_after_crop, integers)
        chosen.append(value)
        decisions.append(
            Decision(
                rule="normalization",
                subject=f"normalization of channel {index} ({name})",
                value=_described(value),
                because=because,
                alternatives=tuple(kind for kind in KINDS if kind != value.kind),
            )
        )
    return tuple(chosen), tuple(decisions)


def _choose(
    name: str, facts: IntensityFacts, relative_size: float, integers: bool
) -> tuple[Normalization, str]:
    key = name.strip().casefold()
    masked = relative_size < MASK_BELOW
    mask_reason = f"nonzero voxels are {relative_size:.0%} of the image: " + (
        "statistics of these only" if masked else "statistics of the whole image"
    )
    match key:
        case "nonorm" | "none":
            return NoNormalization(), f"the name {name!r} asks for none"
        case "rescale_to_0_1":
            return MinMax(), f"the name {name!r} asks for it"
        case "rgb_to_0_1":
            return FixedScale(divisor=LARGEST_BYTE), f"the name {name!r} asks for it"
        case "zscore":
            return ZScore(inside_mask=masked), f"the name {name!r} asks for it; {mask_reason}"
        case _:
            return _by_modality(name, key, facts, integers, masked, mask_reason)


def _by_modality(
    name: str, key: str, facts: IntensityFacts, integers: bool, masked: bool, mask_reason: str
) -> tuple[Normalization, str]:
    if NUCLEAR & set(re.split(r"[\W_]+", key)):
        return PercentileNormalization(), (
            f"{name!r} shows uptake, which differs from patient to patient and has a long bright "
            "tail: clipped to the case's 0.5–99.5 % range, then zero mean and unit spread"
        )
    if CT.fullmatch(key):
        value = CTNormalization(
            lower=facts.percentile_00_5,
            upper=facts.percentile_99_5,
            mean=facts.mean,
            std=facts.std,
        )
        return value, (
            f"{name!r} is CT, whose values mean the same in every scan: clipped to the "
            "0.5–99.5 % range of all foreground, dataset-wide mean and spread"
        )
    if COLOR.fullmatch(key) and integers and _is_byte_range(facts):
        return FixedScale(divisor=LARGEST_BYTE), f"{name!r} is 8-bit color or gray"
    if MR.fullmatch(key):
        return ZScore(inside_mask=masked), (
            f"{name!r} is MR, whose scale differs from scan to scan; {mask_reason}"
        )
    return PercentileNormalization(), (
        f"{name!r} is no known modality: clipped to the case's 0.5–99.5 % range against outliers, "
        "then zero mean and unit spread"
    )


def _is_byte_range(facts: IntensityFacts) -> bool:
    return facts.minimum >= 0 and facts.maximum <= LARGEST_BYTE


def _described(value: Normalization) -> str:
    match value:
        case CTNormalization():
            return f"ct: [{value.lower:.4g}, {value.upper:.4g}], {value.mean:.4g} ± {value.std:.4g}"
        case ZScore():
            return "zscore inside the nonzero mask" if value.inside_mask else "zscore"
        case _:
            return value.kind
