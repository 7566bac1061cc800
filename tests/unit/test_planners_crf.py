"""When a dense CRF is nominated, and in which units its intensities are tuned."""

from __future__ import annotations

import json

import pytest
from plannerfacts import INTENSITIES, make_dataset, make_fingerprint
from selfseg.planners.crf import decide_crf, intensity_grid
from selfseg.planners.default import DefaultPlanner

from selfseg.plan_edits import edit_plan
from selfseg.planning import Planner
from selfseg.records.fingerprint import Fingerprint, LabelFacts, LabelSummary
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Budget, Plan
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    PercentileNormalization,
    ZScore,
)
from selfseg.records.shapes import ShapeSummary

SHAPE = ShapeSummary(
    share_of_cases=1.0, components_mode=1, median_largest_share=1.0, median_size_spread=1.0,
    median_sphericity=0.65, median_r50_mm=8.0, median_r95_mm=12.0, median_length_mm=90.0,
    median_elongation=5.0, median_branch_elongation=1.5, median_tube_ratio=5.0,
    median_thin_share=0.0, median_contrast=(1.5,), volume_cv=0.3, aligned_dice=0.8,
    position_spread=0.05,
)  # fmt: skip
VESSEL = {
    "median_elongation": 120.0, "median_branch_elongation": 15.0, "median_tube_ratio": 1.1,
    "median_largest_share": 0.8,
}  # fmt: skip
GRID = (((1.0, 1.0, 1.0), (64, 64, 64)),)
ORGAN: tuple[ConfigurationName, ...] = ("3d_fullres",)


def label(name: str = "organ", voxels: float = 5000, **shape: object) -> LabelSummary:
    return LabelSummary(
        name=name,
        share_of_cases=1.0,
        median_voxels=voxels,
        median_volume_ml=voxels / 1000,
        median_components=1.0,
        median_largest_share=1.0,
        median_extent_mm=(20.0, 20.0, 20.0),
        shape=SHAPE.model_copy(update=shape),
    )


def facts(*labels: LabelSummary, cases: int = 20, channels: int = 1) -> Fingerprint:
    made = make_fingerprint(GRID * cases, channels=channels)
    found = tuple(
        LabelFacts(
            voxels=round(item.median_voxels), volume_ml=1, components=1, largest_share=1,
            extent_mm=item.median_extent_mm,
        )
        for item in labels
    )  # fmt: skip
    known = tuple(case.model_copy(update={"labels": found}) for case in made.cases)
    return made.model_copy(update={"cases": known, "labels": labels})


def test_regions_are_not_measured() -> None:
    grid, decision = decide_crf(facts(label()), (ZScore(),), ORGAN, regions=True)
    assert grid is None
    assert "regions" in decision.because


def test_a_compact_label_with_contrast_and_few_cases_is_nominated() -> None:
    grid, decision = decide_crf(facts(label()), (ZScore(),), ORGAN)
    assert grid is not None
    assert decision.rule == decision.subject == "crf"
    assert "40 combinations" in decision.value
    for evidence in ("organ is compact", "1.5", "20 cases (at most 30)"):
        assert evidence in decision.because


@pytest.mark.parametrize(
    ("labels", "cases", "why"),
    [
        ((label(median_contrast=(0.99,)),), 20, "asked: at least 1"),
        ((label(median_contrast=(None,)),), 20, "asked: at least 1"),
        ((label(aligned_dice=0.3),), 20, "not compact"),
        ((label(),), 31, "31 cases (at most 30) and no low"),
        ((label(), label("spot", 999)), 20, "spot has 999 voxels"),
        ((label(), label("veins", **VESSEL)), 20, "veins is tubular"),
        ((), 20, "no label"),
        ((label().model_copy(update={"shape": None}),), 20, "not known"),
    ],
)
def test_what_forbids_it_is_said(labels: tuple[LabelSummary, ...], cases: int, why: str) -> None:
    grid, decision = decide_crf(facts(*labels, cases=cases), (ZScore(),), ORGAN)
    assert grid is None
    assert decision.value == "not tried"
    assert why in decision.because


def test_limits_are_included() -> None:
    limit = label(voxels=1000, median_contrast=(1.0,))
    assert decide_crf(facts(limit, cases=30), (ZScore(),), ORGAN)[0] is not None


def test_a_coarse_stage_is_weak_with_any_number_of_cases() -> None:
    grid, decision = decide_crf(facts(label(), cases=31), (ZScore(),), ("3d_lowres", "3d_cascade"))
    assert grid is not None
    assert "3d_lowres is proposed" in decision.because


def test_a_label_that_is_not_compact_may_stand_beside_one_that_is() -> None:
    assert decide_crf(facts(label(), label("tumor", volume_cv=2.0)), (ZScore(),), ORGAN)[0]


def test_intensities_are_in_units_of_the_normalized_channel() -> None:
    ct = CTNormalization(lower=-100, upper=300, mean=90, std=80)
    assert intensity_grid(ct, INTENSITIES, 2.0) == pytest.approx((0.125, 0.25, 0.5))
    for z_scored in (ZScore(), ZScore(inside_mask=True), PercentileNormalization()):
        assert intensity_grid(z_scored, INTENSITIES, 2.0) == (0.125, 0.25, 0.5, 1.0)
    # Half of the voxels at the border lie a step of twice the spread (40) above the others.
    sigma = 40 * 2**0.5
    shares = (0.25 * sigma, 0.5 * sigma, sigma)
    assert intensity_grid(NoNormalization(), INTENSITIES, 2.0) == pytest.approx(shares)
    scaled = intensity_grid(FixedScale(divisor=255.0), INTENSITIES, 2.0)
    assert scaled == pytest.approx([value / 255 for value in shares])
    ranged = intensity_grid(MinMax(), INTENSITIES, 2.0)
    assert ranged == pytest.approx([value / 1400 for value in shares])
    flat = INTENSITIES.model_copy(update={"std": 0.0})
    assert min(intensity_grid(NoNormalization(), flat, 2.0)) > 0


def test_units_are_those_of_the_channel_with_the_most_contrast() -> None:
    ct = CTNormalization(lower=-100, upper=300, mean=90, std=80)
    both = facts(label(median_contrast=(1.2, 3.0)), channels=2)
    grid, _ = decide_crf(both, (ZScore(), ct), ORGAN)
    assert grid is not None
    assert grid.theta_intensity == pytest.approx((0.125, 0.25, 0.5))


def test_a_user_turns_it_off_and_on() -> None:
    planner: Planner = DefaultPlanner()

    def plan(cases: int) -> Plan:
        budget = Budget(memory_gib=8.0, device="cpu")
        dataset = make_dataset(cases, labels=1)
        return planner.plan(dataset, facts(label(), cases=cases), budget)

    nominated, other = plan(20), plan(40)
    assert nominated.crf is not None
    assert other.crf is None
    assert edit_plan(nominated, ["crf=null"]).crf is None
    fewer = edit_plan(nominated, ["crf.draws=5"]).crf
    assert fewer is not None
    assert fewer.draws == 5
    wanted = json.dumps({"theta_intensity": [0.5], "draws": 3})
    asked = edit_plan(other, [f"crf={wanted}"])
    assert asked.crf is not None
    assert asked.crf.theta_intensity == (0.5,)
    assert asked.decisions[-1].subject == "crf"
