"""Made-up facts for planner tests: fingerprints and datasets without any image."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.dataset import Case, Dataset, File, Label
from selfseg.records.fingerprint import CaseFacts, Fingerprint, IntensityFacts
from selfseg.records.serial import Shape3, Triple
from selfseg.records.shapes import ShapeSummary

INTENSITIES = IntensityFacts(
    mean=90.0,
    median=95.0,
    std=40.0,
    minimum=-500.0,
    maximum=900.0,
    percentile_00_5=-30.0,
    percentile_99_5=210.0,
)

VESSELS = ShapeSummary(
    share_of_cases=1.0, components_mode=3, median_largest_share=0.9, median_size_spread=5.0,
    median_sphericity=0.1, median_r50_mm=1.5, median_r95_mm=4.0, median_length_mm=900.0,
    median_elongation=120.0, median_branch_elongation=15.0, median_tube_ratio=1.1,
    median_thin_share=0.5, median_contrast=(2.0,), volume_cv=0.3, aligned_dice=0.3,
    position_spread=0.05,
)  # fmt: skip
ORGAN = VESSELS.model_copy(
    update={
        "components_mode": 1, "median_largest_share": 1.0, "median_sphericity": 0.65,
        "median_elongation": 25.0, "median_branch_elongation": 1.5, "aligned_dice": 0.75,
    }
)  # fmt: skip


def case_facts(index: int, spacing: Triple, shape: Shape3, *, integers: bool = True) -> CaseFacts:
    """Return the facts of one case that planners look at."""
    return CaseFacts(
        id=f"case_{index:03}",
        digest=f"{index}",
        shape=shape,
        shape_after_crop=shape,
        spacing_mm=spacing,
        is_2d=shape[0] == 1,
        integer_intensities=integers,
        intensities=(),
        labels=(),
    )


def make_fingerprint(
    cases: Sequence[tuple[Triple, Shape3]],
    *,
    channels: int = 1,
    intensities: IntensityFacts = INTENSITIES,
    integers: bool = True,
    relative_size: float = 1.0,
) -> Fingerprint:
    """Return a fingerprint of cases given as (spacing in mm, shape)."""
    return Fingerprint(
        cases=tuple(
            case_facts(index, spacing, shape, integers=integers)
            for index, (spacing, shape) in enumerate(cases)
        ),
        intensities=(intensities,) * channels,
        labels=(),
        median_relative_size_after_crop=relative_size,
    )


def make_dataset(
    cases: int, *, channels: Sequence[str] = ("MRI",), labels: int = 2, groups: Sequence[str] = ()
) -> Dataset:
    """Return a dataset with that many cases; `groups` names the group of the first ones."""
    named = [*groups, *[None] * (cases - len(groups))]
    return Dataset(
        name="Made",
        root="nowhere",
        layout="nnunet",
        channels=tuple(channels),
        labels=tuple(Label(name=f"label {n}", value=n) for n in range(1, labels + 1)),
        cases=tuple(
            Case(id=f"case_{index:03}", images=(File(path=f"{index}.nii.gz"),), group=group)
            for index, group in enumerate(named)
        ),
    )
