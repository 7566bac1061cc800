"""Normalization of a channel: by its name, else by its values."""

from __future__ import annotations

import pytest
from plannerfacts import INTENSITIES, make_fingerprint
from selfseg.planners.normalization import decide_normalization

from selfseg.records.fingerprint import IntensityFacts
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    Normalization,
    PercentileNormalization,
    ZScore,
)
from selfseg.records.serial import Shape3, Triple

BYTES = INTENSITIES.model_copy(update={"minimum": 0.0, "maximum": 255.0})
HIPPOCAMPUS: tuple[Triple, Shape3] = ((1.0, 1.0, 1.0), (36, 50, 35))


def normalization_of(
    name: str,
    *,
    intensities: IntensityFacts = INTENSITIES,
    integers: bool = True,
    relative_size: float = 1.0,
) -> tuple[Normalization, str]:
    facts = make_fingerprint(
        [HIPPOCAMPUS], intensities=intensities, integers=integers, relative_size=relative_size
    )
    values, decisions = decide_normalization((name,), facts)
    assert len(values) == len(decisions) == 1
    assert values[0].kind not in decisions[0].alternatives
    return values[0], decisions[0].because


@pytest.mark.parametrize(
    "name",
    [
        "CT",
        "ct",
        " CT ",
        "CTA",
        "CT_venous",
        "spectral CT",
        "ct-arterial",
        "CT scan",
        "Computed Tomography",
    ],
)
def test_ct_is_clipped_by_measured_range(name: str) -> None:
    value, _ = normalization_of(name)
    assert value == CTNormalization(lower=-30.0, upper=210.0, mean=90.0, std=40.0)


@pytest.mark.parametrize(
    "name",
    ["MRI", "mr", "MR_T1", "T1", "t1w", "T1gd", "t1ce", "T2", "T2-FLAIR", "FLAIR", "ADC", "cine",
     "PD", "DWI", "b1000", "brain MRI"],
)  # fmt: skip
def test_mr_is_zscore(name: str) -> None:
    assert normalization_of(name)[0] == ZScore(inside_mask=False)


@pytest.mark.parametrize(("share", "inside"), [(0.74, True), (0.75, False), (1.0, False)])
def test_mask_counts_where_much_was_cropped(share: float, inside: bool) -> None:
    value, because = normalization_of("T1", relative_size=share)
    assert value == ZScore(inside_mask=inside)
    assert f"{share:.0%}" in because
    assert normalization_of("zscore", relative_size=share)[0] == ZScore(inside_mask=inside)


@pytest.mark.parametrize("name", ["R", "green", "Blue", "gray", "grey", "RGB"])
def test_eight_bit_color_is_divided_by_255(name: str) -> None:
    assert normalization_of(name, intensities=BYTES)[0] == FixedScale(divisor=255.0)
    assert normalization_of(name)[0] == PercentileNormalization()
    assert normalization_of(name, intensities=BYTES, integers=False)[0] == PercentileNormalization()


@pytest.mark.parametrize(
    "name",
    ["PET", "PET-CT", "ct pet", "FDG_PET_CT", "SPECT-CT", "PET-MR", "ultrasound", "microscopy",
     "contract", "channel 1", ""],
)  # fmt: skip
def test_unknown_modality_is_clipped_to_percentiles(name: str) -> None:
    value, because = normalization_of(name)
    assert value == PercentileNormalization()
    assert repr(name) in because


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("noNorm", NoNormalization()),
        ("zScore", ZScore()),
        ("rescale_to_0_1", MinMax()),
        ("rgb_to_0_1", FixedScale(divisor=255.0)),
    ],
)
def test_explicit_names(name: str, expected: Normalization) -> None:
    value, because = normalization_of(name)
    assert value == expected
    assert "asks for" in because


def test_each_channel_has_its_own_normalization() -> None:
    facts = make_fingerprint([HIPPOCAMPUS], channels=3)
    values, decisions = decide_normalization(("CT", "T1", "PET"), facts)
    assert [value.kind for value in values] == ["ct", "zscore", "percentile"]
    assert "channel 2 (PET)" in decisions[2].subject
