"""Planner rules one by one, and what holds for every plan of the default planner."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plannerfacts import make_dataset, make_fingerprint
from selfseg.planners.counts import count_extra_features, count_parameters
from selfseg.planners.default import DefaultPlanner
from selfseg.planners.families import (
    PLAIN,
    RESIDUAL_L,
    RESIDUAL_M,
    RESIDUAL_XL,
    Family,
    choose_family,
)
from selfseg.planners.memory import estimate_gib
from selfseg.planners.patch import Request, Sizes, decide_sizes
from selfseg.planners.spacing import decide_grid
from selfseg.planners.splits import decide_splits
from selfseg.planners.training import decide_augmentation, decide_loss, decide_optimization
from selfseg.planners.width import decide_batch

from selfseg.plan_checks import check_plan
from selfseg.records.dataset import Case, Fold
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.loss_terms import DiceTerm
from selfseg.records.network import DSN3D
from selfseg.records.plan import Budget, Configuration, Plan
from selfseg.records.serial import Shape3, Triple

CPU = Budget(memory_gib=8.0, device="cpu")
LIVER: tuple[Triple, Shape3] = ((1.0, 0.767578125, 0.767578125), (432, 512, 512))
HIPPOCAMPUS: tuple[Triple, Shape3] = ((1.0, 1.0, 1.0), (36, 50, 35))


def test_coarsest_axis_comes_first() -> None:
    grid, decisions = decide_grid(make_fingerprint([((1.0, 4.0, 1.0), (200, 50, 210))]))
    assert grid.axes == (1, 0, 2)
    assert grid.spacing_mm == (4.0, 1.0, 1.0)
    assert grid.median_shape == (50.0, 200.0, 210.0)
    assert decisions[1].value == "YZX"


def test_fine_percentile_stays_coarser_than_the_other_axes() -> None:
    cases = [((0.5, 1.0, 1.0), (200, 512, 512))] * 2 + [((5.0, 1.0, 1.0), (20, 512, 512))] * 8
    grid, _ = decide_grid(make_fingerprint(cases))
    assert grid.spacing_mm == (1.00001, 1.0, 1.0)


@pytest.mark.parametrize(
    ("device", "features"), [("cpu", (16, 32, 64, 128)), ("cuda", (32, 64, 128, 256))]
)
def test_a_cpu_gets_half_the_width_at_the_same_patch(
    device: Literal["cpu", "cuda"], features: tuple[int, ...]
) -> None:
    plan, _ = plan_of([HIPPOCAMPUS] * 40, Budget(memory_gib=8, device=device))
    full = named(plan, "3d_fullres")
    assert full.network.features == features
    assert full.patch == (40, 56, 40)
    reasons = [d for d in plan.decisions if d.rule == "width" and "3d_fullres" in d.subject]
    assert [reason.value for reason in reasons] == [", ".join(map(str, features))]


@pytest.mark.parametrize(
    ("name", "batch", "patch", "device", "expected"),
    [
        ("2d", 57, (56, 40), "cpu", 12),
        ("2d", 30, (128, 128), "cpu", 4),
        ("2d", 12, (512, 512), "cpu", 2),
        ("2.5d", 30, (5, 128, 96), "cpu", 5),
        ("2d", 3, (56, 40), "cpu", 3),
        ("2d", 57, (56, 40), "cuda", 57),
        ("3d_fullres", 9, (32, 32, 32), "cpu", 9),
    ],
)
def test_a_cpu_makes_small_steps_of_slices(
    name: str, batch: int, patch: tuple[int, ...], device: str, expected: int
) -> None:
    chosen, reasons = decide_batch(name, batch, patch, device)
    assert chosen == expected
    assert bool(reasons) is (expected < batch)


def test_images_with_coarse_pixels_are_still_2d() -> None:
    facts = make_fingerprint([((1.0, 3.0, 2.0), (1, 300, 400))] * 4)
    grid, decisions = decide_grid(facts)
    assert grid.axes == (0, 1, 2)
    assert "single slices" in decisions[1].because
    plan = DefaultPlanner().plan(make_dataset(4), facts, CPU)
    assert [item.name for item in plan.configurations] == ["2d"]
    assert [d.value for d in plan.decisions if d.subject == "configurations.3d_fullres"] == [
        "left out"
    ]


def cases_named(ids: list[str], groups: list[str | None] | None = None) -> tuple[Case, ...]:
    named = groups or [None] * len(ids)
    return tuple(Case(id=i, images=(), group=g) for i, g in zip(ids, named, strict=True))


def test_folds_are_those_of_nnunet() -> None:
    splits = decide_splits(cases_named([f"case_{n:02}" for n in range(10)]))
    assert splits.folds[0].validation == ("case_00", "case_07")
    assert [len(fold.validation) for fold in splits.folds] == [2] * 5
    assert splits.note == ""


def test_folds_do_not_depend_on_the_order_of_cases() -> None:
    ids = [f"case_{n:02}" for n in range(13)]
    assert decide_splits(cases_named(ids)) == decide_splits(cases_named(ids[::-1]))


def test_fewer_patients_than_folds() -> None:
    splits = decide_splits(cases_named(["a", "b", "c"]))
    assert sorted(fold.validation for fold in splits.folds) == [("a",), ("b",), ("c",)]
    assert splits.note == "leave-one-out: 3 folds, since there are only 3 patients"


@pytest.mark.parametrize("groups", [None, ["p", "p"]])
def test_a_single_patient_is_trained_on(groups: list[str | None] | None) -> None:
    ids = ["a", "b"] if groups else ["a"]
    splits = decide_splits(cases_named(ids, groups))
    assert splits.folds == (Fold(train=tuple(ids), validation=()),)
    assert "single patient" in splits.note


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("pqrstu")), min_size=2, max_size=40),
    st.integers(2, 7),
)
@settings(max_examples=80, deadline=None)
def test_groups_are_never_split(groups: list[str | None], folds: int) -> None:
    ids = [f"case_{n:02}" for n in range(len(groups))]
    splits = decide_splits(cases_named(ids, groups), folds)
    group_of = dict(zip(ids, groups, strict=True))
    for fold in splits.folds:
        assert sorted((*fold.train, *fold.validation)) == ids
        shared = {group_of[i] for i in fold.train} & {group_of[i] for i in fold.validation}
        assert shared <= {None}
    if len(splits.folds) > 1:
        assert sorted(i for fold in splits.folds for i in fold.validation) == ids


@pytest.mark.parametrize(
    ("patch", "dummy_2d", "degrees"),
    [
        ((128, 128, 128), False, 30.0),
        ((40, 120, 120), False, 30.0),  # exactly three times
        ((20, 320, 256), True, 180.0),
        ((512, 512), False, 180.0),
        ((320, 256), False, 180.0),
        ((300, 128), False, 15.0),
    ],
)
def test_rotation_follows_the_patch(patch: tuple[int, ...], dummy_2d: bool, degrees: float) -> None:
    value, decision = decide_augmentation("x", patch, (1,))
    assert (value.dummy_2d, value.rotation_degrees) == (dummy_2d, degrees)
    assert value.mirror_axes == (1,)
    assert f"±{degrees:g}°" in decision.value


@pytest.mark.parametrize(
    ("name", "has_coarser", "batch"),
    [
        ("2d", False, True),
        ("3d_fullres", False, False),
        ("3d_fullres", True, True),
        ("3d_lowres", True, False),
    ],
)
def test_dice_is_pooled_where_patches_see_little(name: str, has_coarser: bool, batch: bool) -> None:
    loss, decision = decide_loss(name, has_coarser=has_coarser)
    assert [term.kind for term in loss.terms] == ["dice", "cross_entropy"]
    assert isinstance(loss.terms[0], DiceTerm)
    assert loss.terms[0].batch is batch
    assert ("whole batch" in decision.value) is batch
    assert ("pooled" in decision.because) is batch


def test_regions_are_trained_by_binary_decisions() -> None:
    loss, decision = decide_loss("3d_fullres", has_coarser=False, regions=True)
    assert [term.kind for term in loss.terms] == ["dice", "binary_cross_entropy"]
    assert decision.value.startswith("dice + binary_cross_entropy")
    assert "regions may overlap" in decision.because
    assert isinstance(loss.terms[0], DiceTerm)
    assert not loss.terms[0].batch


def test_recipes() -> None:
    value, decision = decide_optimization("2d", annotated_share=0.5)
    assert "no mirroring" in decision.value
    assert decision.alternatives[-1] == "mirroring in short runs"
    assert (value.recipe.optimizer.kind, value.recipe.schedule.kind) == ("sgd", "poly")
    assert (value.epochs, value.steps_per_epoch) == (1000, 250)
    assert value.short_recipe.optimizer.kind == "adamw"
    assert not value.short_recipe.mirror
    assert value.recipe.mirror


def test_few_annotated_slices_are_mirrored_in_short_runs_too() -> None:
    value, decision = decide_optimization("3d_fullres", annotated_share=0.4999)
    assert value.short_recipe.mirror
    assert ", mirroring" in decision.value
    assert "0.4999 of the voxels are annotated (limit 0.5)" in decision.because
    assert decision.alternatives[-1] == "no mirroring in short runs"


@pytest.mark.parametrize(
    ("device", "memory", "family"),
    [
        ("cpu", 8.0, PLAIN),
        ("cpu", 64.0, PLAIN),
        ("cuda", 8.0, RESIDUAL_M),
        ("cuda", 23.9, RESIDUAL_M),
        ("cuda", 24.0, RESIDUAL_L),
        ("cuda", 80.0, RESIDUAL_XL),
    ],
)
def test_family_follows_device_and_memory(device: str, memory: float, family: Family) -> None:
    chosen, decision = choose_family(device, memory)
    assert chosen == family
    assert decision.value == family.kind
    assert decision.value not in decision.alternatives


def request_of(classes: int = 3, channels: int = 1, cases: int = 40) -> Request:
    return Request(
        spacing=(1.0, 1.0, 1.0),
        median_shape=(138.0, 170.0, 138.0),
        dataset_voxels=138.0 * 170 * 138 * cases,
        classes=classes,
        channels=channels,
        memory_gb=8.0,
    )


@pytest.mark.parametrize("family", [PLAIN, RESIDUAL_M, RESIDUAL_L, RESIDUAL_XL])
def test_batch_is_at_most_a_twentieth_of_the_data_set_in_every_family(family: Family) -> None:
    small = Request((1.0,) * 3, (36.0, 50.0, 35.0), 36.0 * 50 * 35 * 150, 3, 1, 40.0)
    sizes = decide_sizes(small, family, name="3d_fullres")
    assert sizes.batch == 5  # 0.05 · 150 · 63,000 / 89,600 = 5.3
    free = decide_sizes(small, replace(family, batch_share=1.0), name="3d_fullres")
    assert free.batch > 50
    reason = sizes.decisions[-1]
    assert "at most 5%" in reason.because
    assert reason.alternatives == (str(free_fit(small, family)),)


def free_fit(request: Request, family: Family) -> int:
    """Return the batch that memory alone allows."""
    unlimited = replace(request, dataset_voxels=1e15)
    return int(decide_sizes(unlimited, family, name="3d_fullres").batch)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 4])
def test_ordinary_data_is_not_counted_extra(classes: int, channels: int) -> None:
    request = request_of(classes, channels)
    plain = replace(request, count_extras=False)
    for family in (PLAIN, RESIDUAL_M):
        counted, ordinary = (decide_sizes(r, family, name="3d_fullres") for r in (request, plain))
        assert counted == ordinary


@pytest.mark.parametrize(("classes", "channels"), [(60, 1), (3, 64)])
def test_many_classes_or_channels_get_less_patch_or_batch(classes: int, channels: int) -> None:
    def voxels(sizes: Sizes) -> int:
        return int(prod(sizes.patch) * sizes.batch)

    request = request_of(classes, channels, cases=400)
    ordinary = replace(request, count_extras=False)
    for family in (PLAIN, RESIDUAL_L):
        counted = decide_sizes(request, family, name="3d_fullres")
        assert voxels(counted) < voxels(decide_sizes(ordinary, family, name="3d_fullres"))


def test_extra_count_is_linear_beyond_four() -> None:
    assert count_extra_features(1000, 4, 4) == 0
    assert count_extra_features(1000, 5, 4) == 3000
    assert count_extra_features(1000, 4, 6) == 2000


def test_memory_on_a_gpu_grows_with_the_batch_by_tensors_in_half_precision() -> None:
    sizes = decide_sizes(request_of(), PLAIN, name="3d_fullres")

    def gib(batch: int, device: str) -> float:
        return float(
            estimate_gib(
                sizes.network, sizes.patch, batch, channels=1, classes=3, device=device
            )
        )  # fmt: skip

    one, two, three = (gib(n, "cuda") for n in (1, 2, 3))
    assert three - two == pytest.approx(two - one)
    assert two - one == pytest.approx(sizes.features * 2 * 2.2 / 2**30)


@pytest.mark.parametrize(
    ("bfloat16", "map_bytes", "image_bytes", "weight_bytes", "code_mib", "loss_maps"),
    [(False, 4, 4, 20, 4, 4), (True, 2, 6, 22, 8, 5)],
)
def test_memory_of_a_process_is_its_tensors_and_code(
    bfloat16: bool, map_bytes: int, image_bytes: int, weight_bytes: int, code_mib: int,
    loss_maps: int,
) -> None:  # fmt: skip
    sizes = decide_sizes(request_of(), PLAIN, name="3d_fullres")

    def mib(batch: int, classes: int = 3) -> float:
        return 1024 * float(
            estimate_gib(
                sizes.network, sizes.patch, batch, channels=1, classes=classes, device="cpu",
                bfloat16=bfloat16,
            )
        )  # fmt: skip

    voxels = prod(sizes.patch)
    maps = 2 * sizes.features + 4 * sizes.network.features[0] * voxels
    a_sample = (maps * map_bytes + image_bytes * voxels) / 2**20
    assert mib(12) - mib(11) == pytest.approx(a_sample)
    weights = count_parameters(sizes.network, 1, 3) * weight_bytes / 2**20
    assert mib(12) - weights - 12 * a_sample == pytest.approx(code_mib)
    of_loss = loss_maps * 60 * 4 - 4 * sizes.network.features[0] * map_bytes
    assert mib(2, classes=60) > mib(2) + 2 * of_loss * voxels / 2**20


def test_too_little_memory_is_said() -> None:
    sizes = decide_sizes(replace(request_of(), memory_gb=1e-5), PLAIN, name="3d_fullres")
    assert sizes.batch == 2
    assert "still exceed" in sizes.decisions[0].because
    fitting = decide_sizes(request_of(), PLAIN, name="3d_fullres")
    assert "still exceed" not in fitting.decisions[0].because


def test_image_too_small_to_pool_is_padded() -> None:
    tiny = replace(request_of(), median_shape=(5.0, 6.0, 5.0))
    sizes = decide_sizes(tiny, PLAIN, name="3d_fullres")
    assert sizes.patch == (12, 12, 12)
    assert len(sizes.network.features) == 2


def test_patch_shrinks_in_the_plane_when_no_slice_can_go() -> None:
    slices = replace(request_of(), spacing=(4.0, 0.5, 0.5), median_shape=(3.0, 900.0, 900.0))
    sizes = decide_sizes(replace(slices, memory_gb=1.0), PLAIN, name="3d_fullres")
    assert sizes.patch[0] >= 1
    assert prod(sizes.patch[1:]) < 900 * 900
    assert "fit the" in sizes.decisions[0].because
    assert sizes.network.kernels[0] == (1, 3, 3)
    assert all(stride[0] == 1 for stride in sizes.network.strides)


def plan_of(
    cases: list[tuple[Triple, Shape3]],
    budget: Budget = CPU,
    *,
    count: int | None = None,
    channels: int = 1,
    labels: int = 2,
) -> tuple[Plan, Fingerprint]:
    facts = make_fingerprint(cases, channels=channels)
    dataset = make_dataset(count or len(cases), channels=("MRI",) * channels, labels=labels)
    plan = DefaultPlanner().plan(dataset, facts, budget)
    assert isinstance(plan, Plan)
    return plan, facts


def named(plan: Plan, name: str) -> Configuration:
    return next(item for item in plan.configurations if item.name == name)


def test_plan_of_forty_hippocampi() -> None:
    plan, _ = plan_of([HIPPOCAMPUS] * 40)
    assert [item.name for item in plan.configurations] == ["2d", "3d_fullres"]
    full = named(plan, "3d_fullres")
    assert full.patch == (40, 56, 40)
    assert full.batch == 2
    assert full.network.kind == "unet"
    assert full.network.features == (16, 32, 64, 128)
    assert full.preprocessing.spacing_mm == (1.0, 1.0, 1.0)
    assert full.inference.mirror_axes == full.augmentation.mirror_axes == (0, 1, 2)
    assert named(plan, "2d").preprocessing.spacing_mm == (None, 1.0, 1.0)


@pytest.mark.parametrize(("cases", "pooled"), [([LIVER] * 131, True), ([HIPPOCAMPUS] * 40, False)])
def test_loss_and_its_decision_agree(cases: list[tuple[Triple, Shape3]], pooled: bool) -> None:
    plan, _ = plan_of(cases)
    assert ("3d_lowres" in {item.name for item in plan.configurations}) is pooled
    for item in plan.configurations:
        term = item.loss.terms[0]
        assert isinstance(term, DiceTerm)
        assert term.batch is (
            item.name == "2d" or (pooled and item.name in ("3d_fullres", "3d_cascade"))
        )
        subject = f"configurations.{item.name}.loss"
        (decision,) = [d for d in plan.decisions if d.subject == subject]
        assert ("whole batch" in decision.value) is term.batch


# No choices, or none where it is empty.
MEASURED = {"name", "median_shape", "memory_gib", "memory_bfloat16_gib", "previous_stage"}
# Decided where --init or --auxiliary ask for it, or by a race; else they stay like this.
ASKED_FOR = {"start": None, "borrows": True}
COMMON = {
    "spacing_mm", "axes", "resampling", "network family", "normalization of channel 0 (MRI)",
    "mirroring",
}  # fmt: skip


@pytest.mark.parametrize("budget", [CPU, Budget(memory_gib=24.0, device="cuda")])
@pytest.mark.parametrize("case", [LIVER, HIPPOCAMPUS, ((1.0, 1.0, 1.0), (1, 512, 512))])
def test_every_value_has_a_decision(budget: Budget, case: tuple[Triple, Shape3]) -> None:
    plan, _ = plan_of([case] * 30, budget)
    subjects = [decision.subject for decision in plan.decisions]
    assert len(set(subjects)) == len(subjects)
    assert set(subjects) >= COMMON
    for item in plan.configurations:
        # Only a second stage may be told to look around what the first has found.
        first = {"crop"} if item.previous_stage is None else set()
        known = MEASURED | set(ASKED_FOR) | first | {"preprocessing"}
        for field in set(Configuration.model_fields) - known:
            assert f"configurations.{item.name}.{field}" in subjects
        assert {field: getattr(item, field) for field in ASKED_FOR} == ASKED_FOR
    preprocessing = set(type(plan.configurations[0].preprocessing).model_fields)
    # The orientation is canonical, always; others come with imported models.
    assert preprocessing - {"orientation"} == {"axes", "spacing_mm", "normalization", "resampling"}
    names = {item.name for item in plan.configurations}
    verdicts = {d.subject: d.value for d in plan.decisions if d.rule == "configurations"}
    for name in ("2d", "2.5d", "3d_fullres", "3d_cascade"):
        verdict = verdicts[f"configurations.{name}"]
        assert (verdict == "left out") is (name not in names)
        assert verdict.startswith("proposed") is (name in plan.proposed)
    assert verdicts[f"configurations.{plan.proposed[0]}"] == "proposed first"
    assert all(d.because and d.value and d.rule for d in plan.decisions)


SPACING = st.floats(0.2, 8.0)
SIDE = st.integers(3, 420)
CASE = st.tuples(st.tuples(SPACING, SPACING, SPACING), st.tuples(SIDE, SIDE, SIDE))


@given(
    cases=st.lists(CASE, min_size=1, max_size=4),
    count=st.integers(1, 500),
    memory=st.floats(0.5, 80.0),
    device=st.sampled_from(["cpu", "cuda"]),
    channels=st.integers(1, 6),
    labels=st.integers(1, 70),
)
@settings(max_examples=40, deadline=None)
def test_what_holds_for_every_plan(
    cases: list[tuple[Triple, Shape3]],
    count: int,
    memory: float,
    device: str,
    channels: int,
    labels: int,
) -> None:
    budget = Budget.model_validate({"memory_gib": memory, "device": device})
    plan, facts = plan_of(cases, budget, count=count, channels=channels, labels=labels)
    check_plan(plan)
    assert plan == plan_of(cases, budget, count=count, channels=channels, labels=labels)[0]
    grid, _ = decide_grid(facts)
    assert sorted(grid.axes) == [0, 1, 2]
    assert grid.spacing_mm[0] == max(grid.spacing_mm)
    for item in plan.configurations:
        assert not isinstance(item.network, DSN3D)  # never planned, only set
        strides = item.network.strides
        assert strides[0] == (1,) * len(item.patch)
        divisors = [prod(s[axis] for s in strides) for axis in range(len(item.patch))]
        assert all(n % d == 0 for n, d in zip(item.patch, divisors, strict=True))
        assert item.batch >= 2
        assert item.memory_gib > 0
        if item.batch > 2 and item.name == "3d_fullres":
            share = item.batch * prod(item.patch) / (prod(item.median_shape) * count)
            assert share <= 0.05001 * item.batch / (item.batch - 0.5)
    if "3d_lowres" in {item.name for item in plan.configurations}:
        low, full = named(plan, "3d_lowres"), named(plan, "3d_fullres")
        assert 2 * prod(low.median_shape) <= 1.1 * prod(full.median_shape)
