"""Left and right in label names, and which axis is then not mirrored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plannerfacts import make_fingerprint
from selfseg.planners.default import DefaultPlanner
from selfseg.planners.mirroring import decide_mirroring, find_pairs, find_single_sided

from selfseg.records.dataset import Case, Dataset, Label, Region
from selfseg.records.plan import Budget, Plan
from selfseg.records.serial import Shape3, Triple


@pytest.mark.parametrize(
    "names",
    [
        ("kidney_left", "kidney_right"),
        ("left_lung", "right_lung"),
        ("lung_L", "lung_R"),
        ("L_lung", "R_lung"),
        ("LungL", "LungR"),
        ("Left Hippocampus", "Right Hippocampus"),
        ("LEFT-KIDNEY", "right kidney"),
        ("femur (l)", "femur (r)"),
        ("KidneyLeft", "KidneyRight"),
        ("leftKidney", "rightKidney"),
        ("leftlung", "rightlung"),
        ("left lung", "lung right"),
        ("rib_left1", "rib_right1"),
        ("Parotid.Lt", "Parotid.Rt"),
        ("lh.amygdala", "rh.amygdala"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("rib_left_1", "rib_right_1"),
        ("left", "right"),
        ("A_Carotid_L", "A_Carotid_R"),
    ],
)
def test_pairs_are_found(names: tuple[str, str]) -> None:
    assert find_pairs(names) == (names,)
    assert find_pairs((names[1], "other", names[0])) == ((names[1], names[0]),)
    assert find_single_sided(names) == ()


@pytest.mark.parametrize(
    "names",
    [
        ("lr", "rl"),
        ("LR", "RL"),
        ("leftover", "rightful"),
        ("liver", "river"),
        ("left_atrium", "left_ventricle"),
        ("left_atrium", "right_ventricle"),
        ("rib_left_1", "rib_right_2"),
        ("vertebra_L1", "vertebra_T1"),
        ("L1", "L2"),
        ("LV", "RV"),
        ("alveolar", "alveorar"),
        ("tumor", "tumour"),
        ("kidney left", "left kidney"),
        ("left to right shunt", "right to left shunt"),
        ("bright", "bleft"),
    ],
)
def test_names_that_are_no_pair(names: tuple[str, str]) -> None:
    assert find_pairs(names) == ()


def test_many_pairs_come_once_each() -> None:
    names = ("lung_left", "lung_right", "heart", "kidney_right", "kidney_left")
    assert find_pairs(names) == (("lung_left", "lung_right"), ("kidney_right", "kidney_left"))


def test_a_side_without_partner_is_anatomy() -> None:
    allowed, decision = decide_mirroring(("left_atrium", "left_ventricle", "L1"), (0, 1, 2))
    assert allowed == (0, 1, 2)
    assert decision.value == "all axes"
    assert "(left_atrium, left_ventricle)" in decision.because
    assert "L1" not in decision.because
    assert find_single_sided(("leftover", "right side")) == ("right side",)


@pytest.mark.parametrize(
    ("axes", "working"), [((0, 1, 2), 2), ((1, 0, 2), 2), ((2, 0, 1), 0), ((2, 1, 0), 0)]
)
def test_axis_is_that_of_the_working_order(axes: tuple[int, int, int], working: int) -> None:
    allowed, decision = decide_mirroring(("hip_left", "hip_right"), axes)
    assert set(allowed) == {0, 1, 2} - {working}
    assert f"working axis {working}" in decision.value
    assert "hip_left and hip_right" in decision.because


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_names_can_be_read(names: list[str]) -> None:
    for first, second in find_pairs(names):
        assert first != second
        assert {first, second} <= set(names)


def plan_of(
    spacing: Triple, shape: Shape3, labels: tuple[str, ...], regions: tuple[Region, ...] = ()
) -> Plan:
    named = tuple(Label(name=name, value=value) for value, name in enumerate(labels, start=1))
    cases = tuple(Case(id=f"case_{n}", images=()) for n in range(10))
    dataset = Dataset(
        name="Made", root="", layout="nnunet", channels=("CT",), labels=named, regions=regions,
        cases=cases,
    )  # fmt: skip
    facts = make_fingerprint([(spacing, shape)] * 10)
    plan = DefaultPlanner().plan(dataset, facts, Budget(memory_gib=8.0, device="cpu"))
    assert isinstance(plan, Plan)
    return plan


def mirrored(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the mirrored axes of each configuration; training and prediction must agree."""
    for item in plan.configurations:
        assert item.inference.mirror_axes == item.augmentation.mirror_axes
    return {item.name: item.inference.mirror_axes for item in plan.configurations}


KIDNEYS = ("kidney_left", "kidney_right")


def test_planes_and_volumes_spare_the_left_right_axis() -> None:
    axes = mirrored(plan_of((1.0, 1.0, 1.0), (60, 70, 80), KIDNEYS))
    assert axes == {"2d": (0,), "3d_fullres": (0, 1)}


def test_coronal_slices_spare_it_too() -> None:
    axes = mirrored(plan_of((1.0, 4.0, 1.0), (200, 50, 210), KIDNEYS))
    assert axes["2d"] == (0,)
    assert axes["3d_fullres"] == axes["2.5d"] == (0, 1)


def test_sagittal_slices_spare_the_axis_across_them() -> None:
    axes = mirrored(plan_of((1.0, 1.0, 4.0), (200, 210, 50), KIDNEYS))
    assert axes["2d"] == (0, 1)  # left and right lie in different slices
    assert axes["3d_fullres"] == axes["2.5d"] == (1, 2)


def test_pictures_keep_their_width() -> None:
    assert mirrored(plan_of((1.0, 1.0, 1.0), (1, 300, 200), KIDNEYS)) == {"2d": (0,)}


def test_regions_count_as_well_and_other_labels_mirror() -> None:
    regions = (
        Region(name="left lung", values=(1, 2), value=1),
        Region(name="right lung", values=(3, 4), value=3),
    )
    plain = ("a", "b", "c", "d")
    plan = plan_of((1.0, 1.0, 1.0), (60, 70, 80), plain, regions)
    assert mirrored(plan)["3d_fullres"] == (0, 1)
    plan = plan_of((1.0, 1.0, 1.0), (60, 70, 80), plain)
    assert mirrored(plan)["3d_fullres"] == (0, 1, 2)
    (decision,) = [d for d in plan.decisions if d.rule == "mirroring"]
    assert decision.because == "no two labels differ by left and right alone"
