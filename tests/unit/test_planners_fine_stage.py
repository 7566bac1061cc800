"""When the cascade looks at crops: few cases, few small bodies; each verdict with its numbers."""

from __future__ import annotations

import pytest
from plannerfacts import ORGAN, VESSELS, make_dataset, make_fingerprint
from selfseg.planners.default import DefaultPlanner
from selfseg.planners.fine_stage import decide_crop
from selfseg.planners.spacing import decide_grid

from selfseg.plan_checks import check_plan
from selfseg.plan_edits import edit_plan
from selfseg.records.fingerprint import Fingerprint, LabelFacts, LabelSummary
from selfseg.records.network import DualChannel, GatedEncoders, SecondInput
from selfseg.records.plan import Budget, Configuration, Plan
from selfseg.records.serial import Triple
from selfseg.records.shapes import ShapeSummary

SPACING_MM, SHAPE = (1.0, 0.8, 0.8), (480, 512, 512)


def label(
    name: str = "label 1",
    *,
    volume_ml: float = 300.0,
    components: float = 2,
    extent_mm: Triple = (110.0, 80.0, 190.0),
    shape: ShapeSummary = ORGAN,
) -> LabelSummary:
    """Two kidneys: 150 ml each, 110 mm long."""
    return LabelSummary(
        name=name,
        share_of_cases=1.0,
        median_voxels=volume_ml * 1000,
        median_volume_ml=volume_ml,
        median_components=components,
        median_largest_share=1 / components,
        median_extent_mm=extent_mm,
        shape=shape,
    )


def facts(*labels: LabelSummary, cases: int = 20) -> Fingerprint:
    made = make_fingerprint([(SPACING_MM, SHAPE)] * cases)
    summaries = labels or (label(),)
    measured = LabelFacts(
        voxels=9, volume_ml=300.0, components=2, largest_share=0.5, extent_mm=(110.0, 80.0, 190.0)
    )
    with_labels = tuple(
        case.model_copy(update={"labels": (measured,) * len(summaries)}) for case in made.cases
    )
    return made.model_copy(update={"labels": summaries, "cases": with_labels})


def verdict(fingerprint: Fingerprint, *, regions: bool = False) -> tuple[bool, str]:
    grid, _ = decide_grid(fingerprint)
    crop, decision = decide_crop(fingerprint, grid, regions=regions)
    return crop is not None, f"{decision.value}: {decision.because}"


def test_kidneys_of_twenty_patients_are_cropped() -> None:
    tumor = label("label 2", volume_ml=20.0, components=1)
    fingerprint = facts(label(), tumor)
    grid, _ = decide_grid(fingerprint)
    crop, decision = decide_crop(fingerprint, grid, regions=False)
    assert crop is not None
    assert (crop.labels, crop.margin_mm) == (None, 20.0)
    assert crop.smallest_ml == pytest.approx(1.0)  # a twentieth of a tumor
    # a kidney is at most 1.5 · 66 mm long: boxes of (99 + 40) · (80 + 40) · (99 + 40) mm
    share = 2 * 139 * 120 * 139 / (480 * 409.6 * 409.6)
    assert f"cover {share:.0%} of the image" in decision.because


@pytest.mark.parametrize(
    ("fingerprint", "reason"),
    [
        (facts(cases=61), "61 cases (limit 60)"),
        (facts(label(components=5)), "5 components a case (limit 4)"),
        (facts(label(shape=VESSELS)), "label 'label 1' consists of tubes"),
        (facts(label(volume_ml=9000.0, extent_mm=(300.0,) * 3)), "crops would cover"),
    ],
)
def test_what_speaks_against_crops_is_said(fingerprint: Fingerprint, reason: str) -> None:
    cropped, because = verdict(fingerprint)
    assert not cropped
    assert reason in because
    assert because.count(";") == 0


def test_regions_are_not_measured() -> None:
    assert verdict(facts(), regions=True) == (
        False,
        "the whole image: nothing is known of the size of what is segmented",
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    budget = Budget(memory_gib=8, device="cuda")
    made: Plan = DefaultPlanner().plan(make_dataset(20, labels=1), facts(), budget)
    return made


def fine_stage(plan: Plan) -> Configuration:
    return next(item for item in plan.configurations if item.name == "3d_cascade")


def test_the_cascade_alone_gets_crop_and_variant(plan: Plan) -> None:
    for item in plan.configurations:
        if item.name != "3d_cascade":
            assert item.crop is None
            assert not isinstance(item.network, DualChannel)
            continue
        assert item.crop is not None
        assert isinstance(item.network, DualChannel)
        assert isinstance(item.network.variant, SecondInput)
    subjects = [decision.subject for decision in plan.decisions]
    assert "configurations.3d_cascade.crop" in subjects
    assert "configurations.3d_cascade.network.variant" in subjects
    check_plan(plan)


def test_the_user_may_set_variant_and_crop(plan: Plan) -> None:
    variant = '{"kind": "gated_encoders", "channels": 1, "source": "fresh"}'
    edited = edit_plan(
        plan,
        (
            f"configurations.3d_cascade.network.variant={variant}",
            "configurations.3d_cascade.crop.margin_mm=12",
        ),
    )
    check_plan(edited)
    fine = fine_stage(edited)
    assert fine.crop is not None
    assert fine.crop.margin_mm == 12
    assert isinstance(fine.network, DualChannel)
    assert fine.network.variant == GatedEncoders(channels=1)
    subject = "configurations.3d_cascade.network.variant"
    (decision,) = (d for d in edited.decisions if d.subject == subject)
    assert (decision.rule, decision.value) == ("user", variant)
    assert "in place of second_input (rule fine_stage)" in decision.because
    before = fine_stage(plan)
    assert DefaultPlanner().memory_gib(edited, fine) > 1.2 * DefaultPlanner().memory_gib(
        plan, before
    )


def test_a_crop_can_be_set_where_none_was_planned_and_taken_away(plan: Plan) -> None:
    without = edit_plan(plan, ("configurations.3d_cascade.crop=null",))
    check_plan(without)
    again = edit_plan(without, ('configurations.3d_cascade.crop={"smallest_ml": 2}',))
    check_plan(again)
    assert fine_stage(again).crop is not None
