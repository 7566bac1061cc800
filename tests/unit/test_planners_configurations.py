"""Which configurations are proposed, and which axes are mirrored."""

from __future__ import annotations

import pytest
from plannerfacts import make_dataset, make_fingerprint
from selfseg.planners.configurations import Evidence, choose_configurations, gather_evidence
from selfseg.planners.context import class_weights, decide_slices
from selfseg.planners.default import DefaultPlanner
from selfseg.planners.mirroring import decide_mirroring, find_pairs
from selfseg.planners.spacing import Grid

from selfseg.plan_checks import check_plan
from selfseg.records.dataset import Label
from selfseg.records.fingerprint import LabelFacts, LabelSummary
from selfseg.records.network import ContextUNet
from selfseg.records.plan import Budget, Plan
from selfseg.records.serial import Shape3, Triple

CPU = Budget(memory_gib=8, device="cpu")


def plan_of(
    spacing: Triple, shape: Shape3, *, count: int = 30, extent_mm: Triple | None = None
) -> Plan:
    facts = make_fingerprint([(spacing, shape)] * count)
    if extent_mm is not None:
        summary = LabelSummary(
            name="cord", share_of_cases=1.0, median_voxels=9.0, median_volume_ml=1.0,
            median_components=1.0, median_largest_share=1.0, median_extent_mm=extent_mm,
        )  # fmt: skip
        facts = facts.model_copy(update={"labels": (summary,)})
    plan = DefaultPlanner().plan(make_dataset(count), facts, CPU)
    assert isinstance(plan, Plan)
    check_plan(plan)
    return plan


def planned(plan: Plan) -> tuple[str, ...]:
    return tuple(item.name for item in plan.configurations)


@pytest.mark.parametrize(
    ("spacing", "shape", "proposed"),
    [
        ((1.0, 1.0, 1.0), (36, 50, 35), ("3d_fullres", "2d")),  # hippocampus
        ((5.0, 0.8, 0.8), (20, 96, 96), ("2.5d", "3d_fullres")),
        ((2.5, 0.7, 0.7), (6, 44, 44), ("2.5d", "3d_fullres")),  # nodules
        ((2.0, 1.0, 1.0), (16, 96, 96), ("3d_fullres", "2.5d")),  # few slices
        ((2.0, 1.0, 1.0), (60, 96, 96), ("3d_fullres", "2d")),
        ((1.0, 1.0, 1.0), (1, 960, 999), ("2d",)),
        ((1.0, 0.8, 0.8), (480, 512, 512), ("3d_fullres", "3d_lowres", "3d_cascade", "2d")),
    ],
)
def test_what_is_proposed_follows_from_the_data(
    spacing: Triple, shape: Shape3, proposed: tuple[str, ...]
) -> None:
    plan = plan_of(spacing, shape)
    assert plan.proposed == proposed


def test_isotropic_volumes_have_no_slab_and_flat_ones_no_third_axis() -> None:
    assert "2.5d" not in planned(plan_of((1.0, 1.0, 1.0), (36, 50, 35)))
    assert planned(plan_of((1.0, 1.0, 1.0), (1, 300, 300))) == ("2d",)
    assert planned(plan_of((2.0, 1.0, 1.0), (60, 96, 96))) == ("2d", "2.5d", "3d_fullres")


def test_structures_along_the_slices_are_left_to_3d() -> None:
    across = plan_of((5.0, 0.8, 0.8), (20, 96, 96), extent_mm=(90.0, 10.0, 12.0))
    within = plan_of((5.0, 0.8, 0.8), (20, 96, 96), extent_mm=(20.0, 10.0, 12.0))
    assert ("2.5d" in across.proposed, "2.5d" in within.proposed) == (False, True)
    (reason,) = [d.because for d in across.decisions if d.subject == "configurations.2.5d"]
    assert "'cord' is 7.5 times longer" in reason


def evidence(
    *, ratio: float = 2.0, slices: float = 60, in_plane: float = 1.0, image: float = 1.0,
    elongations: dict[str, float] | None = None, budget: Budget = CPU,
) -> Evidence:  # fmt: skip
    return Evidence(ratio, slices, in_plane, image, elongations or {}, ("lesion", 2.0), budget)


GPU = Budget(memory_gib=24, device="cuda")
SMALL_GPU = Budget(memory_gib=4, device="cuda")


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (evidence(budget=GPU), ("3d_fullres", "2d")),
        (evidence(in_plane=0.24, budget=GPU), ("3d_fullres", "2.5d")),
        (evidence(image=0.4, budget=GPU), ("3d_fullres", "2d")),
        (evidence(image=0.4, budget=SMALL_GPU), ("3d_fullres", "2.5d")),
        (evidence(image=0.4), ("3d_fullres", "2.5d")),
        (evidence(image=0.6), ("3d_fullres", "2d")),
        (evidence(ratio=1.4, in_plane=0.1, image=0.1), ("3d_fullres", "2d")),
        (evidence(ratio=6, elongations={"cord": 9.0}), ("3d_fullres", "2d")),
        (evidence(ratio=6, elongations={"cord": 9.0, "a": 1.0, "b": 0.5}), ("2.5d", "3d_fullres")),
        (evidence(ratio=6, slices=2), ("2d",)),
    ],
)
def test_each_number_counts(given: Evidence, order: tuple[str, ...]) -> None:
    found, decisions = choose_configurations(given, has_low=False)
    assert found == order
    by_name = {d.subject.removeprefix("configurations."): d for d in decisions}
    assert by_name[order[0]].value == "proposed first"
    for name, decision in by_name.items():
        assert decision.value.startswith("proposed") is (name in order)
        assert decision.because


def test_reasons_name_the_numbers() -> None:
    _, decisions = choose_configurations(evidence(image=0.4), has_low=False)
    (reason,) = [d.because for d in decisions if d.subject == "configurations.2.5d"]
    for number in ("spacing ratio 2", "60 slices", "'lesion' spans 2", "8 GB on a CPU", "40%"):
        assert number in reason


def test_scattered_pieces_do_not_count_as_one_long_structure() -> None:
    grid = Grid(axes=(0, 1, 2), spacing_mm=(5.0, 1.0, 1.0), median_shape=(40.0, 200.0, 200.0))
    nodes = LabelSummary(
        name="nodes", share_of_cases=1.0, median_voxels=90.0, median_volume_ml=1.0,
        median_components=12.0, median_largest_share=0.2, median_extent_mm=(190.0, 50.0, 40.0),
    )  # fmt: skip
    cord = nodes.model_copy(update={"name": "cord", "median_largest_share": 1.0})
    absent = cord.model_copy(update={"name": "absent", "share_of_cases": 0.0})
    facts = make_fingerprint([((5.0, 1.0, 1.0), (40, 200, 200))])
    for labels, expected in (((nodes, absent), {}), ((nodes, cord), {"cord": 190 / 50})):
        given = facts.model_copy(update={"labels": labels})
        found = gather_evidence(given, grid, (20, 100, 100), CPU)
        assert found.elongations == pytest.approx(expected)
        assert found.thinnest == (("cord", 38.0) if expected else None)
        assert (found.in_plane_share, found.image_share) == (0.25, 0.125)


def test_slab_shares_the_arrays_of_3d_and_has_its_own_network() -> None:
    plan = plan_of((5.0, 0.8, 0.8), (20, 96, 96))
    slab = next(item for item in plan.configurations if item.name == "2.5d")
    full = next(item for item in plan.configurations if item.name == "3d_fullres")
    assert slab.preprocessing == full.preprocessing
    assert isinstance(slab.network, ContextUNet)
    assert slab.patch == (3, 96, 96)
    assert slab.context == 1
    assert slab.augmentation.dummy_2d
    assert slab.batch >= 2


@pytest.mark.parametrize(
    ("spacing_mm", "slices", "expected"),
    [
        (5.0, 20, 3),
        (3.0, 20, 5),
        (2.5, 6, 5),
        (2.5, 40, 7),
        (1.0, 40, 9),
        (8.0, 40, 3),
        (1.5, 2, 3),
    ],
)
def test_slices_show_fifteen_millimeters(spacing_mm: float, slices: int, expected: int) -> None:
    assert decide_slices(spacing_mm, slices)[0] == expected


def test_cascade_refines_the_low_resolution_at_full_detail() -> None:
    plan = plan_of((1.0, 0.8, 0.8), (480, 512, 512))
    full, cascade = (
        next(item for item in plan.configurations if item.name == name)
        for name in ("3d_fullres", "3d_cascade")
    )
    assert cascade.previous_stage == "3d_lowres"
    assert (cascade.patch, cascade.network) == (full.patch, full.network)
    assert plan.input_channels(cascade) == 1 + 2
    assert plan.input_channels(full) == 1


def test_rare_classes_weigh_more_within_limits() -> None:
    facts = make_fingerprint([((1.0, 1.0, 1.0), (10, 10, 10))] * 2)
    fact = LabelFacts(
        voxels=90, volume_ml=0.09, components=1, largest_share=1.0, extent_mm=(1.0, 1.0, 1.0)
    )
    rare = fact.model_copy(update={"voxels": 1})
    cases = tuple(case.model_copy(update={"labels": (fact, rare)}) for case in facts.cases)
    weights = class_weights(facts.model_copy(update={"cases": cases}))
    # counts 1818, 180, 2 with median 180
    assert weights == pytest.approx((0.315, 1.0, 5.0))


def test_unknown_label_sizes_give_no_weights() -> None:
    assert class_weights(make_fingerprint([((1.0, 1.0, 1.0), (10, 10, 10))])) is None


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("kidney_left", "kidney_right"), 1),
        (("left_lung", "right_lung", "heart"), 1),
        (("lung_L", "lung_R"), 1),
        (("Left Hippocampus", "Right Hippocampus"), 1),
        (("femur (l)", "femur (r)"), 1),
        (("hipLeft", "hipRight"), 1),
        (("left_atrium", "left_ventricle"), 0),
        (("left_ventricle", "right_atrium"), 0),
        (("leftover", "rightmost"), 0),
        (("lr", "rl"), 0),
        (("tumor", "liver"), 0),
        (("rib_left_1", "rib_right_1", "rib_left_2", "rib_right_2", "rib_left_3"), 2),
    ],
)
def test_pairs_of_left_and_right(names: tuple[str, ...], pairs: int) -> None:
    assert len(find_pairs(names)) == pairs


@pytest.mark.parametrize(
    ("axes", "allowed"), [((0, 1, 2), (0, 1)), ((2, 0, 1), (1, 2)), ((1, 2, 0), (0, 2))]
)
def test_pairs_forbid_left_right_mirroring_whatever_the_axis_order(
    axes: tuple[int, int, int], allowed: tuple[int, ...]
) -> None:
    assert decide_mirroring(("kidney_left", "kidney_right"), axes)[0] == allowed
    assert decide_mirroring(("left_atrium", "tumor"), axes)[0] == (0, 1, 2)


def test_forbidden_mirroring_reaches_training_and_prediction_of_every_configuration() -> None:
    dataset = make_dataset(30).model_copy(
        update={"labels": (Label(name="lung_left", value=1), Label(name="lung_right", value=2))}
    )
    facts = make_fingerprint([((5.0, 0.8, 0.8), (20, 96, 96))] * 30)
    plan = DefaultPlanner().plan(dataset, facts, CPU)
    expected = {"2d": (0,), "2.5d": (0, 1), "3d_fullres": (0, 1)}
    for item in plan.configurations:
        assert item.augmentation.mirror_axes == expected[item.name]
        assert item.inference.mirror_axes == expected[item.name]
