"""Values set by hand that cannot work are refused with their place, never with a traceback."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plannerfacts import INTENSITIES, make_dataset, make_fingerprint

from selfseg import planning
from selfseg.errors import PlanError
from selfseg.loss_checks import count_outputs
from selfseg.networks.build import build_network
from selfseg.plan_checks import check_plan
from selfseg.plan_edits import edit_plan
from selfseg.records.dataset import Label, Region, Targets
from selfseg.records.loss_terms import ShapeCodeTerm
from selfseg.records.network import DSN3D, TwoBranch
from selfseg.records.plan import Budget, Configuration, Plan

FULL = "configurations.3d_fullres"
BUDGET = Budget(memory_gib=8.0, device="cpu")
SHAPE = (36, 50, 35)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan()


def make_plan() -> Plan:
    facts = make_fingerprint([((1.0, 1.0, 1.0), SHAPE)] * 40)
    return planning.make_plan(make_dataset(40), facts, BUDGET)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("network.strides.1=[0, 2, 2]", "network.strides: must be at least 1"),
        ("network.strides.1=[-2, -2, -2]", "network.strides: must be at least 1"),
        ("network.strides.0=[2, 2, 2]", "network.strides: must be at least 1, and all 1"),
        ("network.kernels.0=[2, 3, 3]", "network.kernels: must be odd"),
        ("network.kernels.0=[-1, 3, 3]", "network.kernels: must be odd"),
        ("optimization.recipe.optimizer.learning_rate=-1", "learning_rate: -1, must be positive"),
        ("optimization.short_recipe.schedule.warmup=1", "schedule.warmup: 1, must be in [0, 1)"),
        ("optimization.short_recipe.average_decay=1.5", "average_decay: 1.5, must be in [0, 1)"),
        ("optimization.epochs=0", "optimization.epochs: 0, must be positive"),
        ("optimization.foreground_share=7", "foreground_share: 7, must be in [0, 1]"),
        ("augmentation.rotation_p=3", "augmentation.rotation_p: 3, must be in [0, 1]"),
        ("augmentation.scaling=[1.4, 0.7]", "augmentation.scaling: [1.4, 0.7], must be [low"),
        ("augmentation.noise_std=[-1, 0.7]", "augmentation.noise_std: [-1.0, 0.7], must be"),
        ("augmentation.mirror_axes=[0, 0]", "mirror_axes: an axis stands there twice"),
        ("inference.window_sigma=0", "inference.window_sigma: 0, must be positive"),
        ("loss.terms.1.weight=-1", "loss.terms.1.weight: -1, must be 0 or more"),
        (
            'preprocessing.normalization.0={"kind": "ct", "lower": 5, "upper": 1, "mean": 0, '
            '"std": 1}',
            "preprocessing.normalization.0: lower 5, upper 1 is no range",
        ),
        (
            'preprocessing.normalization.0={"kind": "percentile", "upper_percent": 995}',
            "preprocessing.normalization.0: 0.5 to 995 % is no range",
        ),
    ],
)
def test_numbers_that_cannot_work(plan: Plan, setting: str, complaint: str) -> None:
    edited = edit_plan(plan, [f"{FULL}.{setting}"])
    with pytest.raises(PlanError) as error:
        check_plan(edited)
    assert f"{FULL}." in error.value.message
    assert complaint in error.value.message
    assert "configurations.2d" not in error.value.message


@pytest.mark.parametrize("values", [(), (0, 1), (2, 2), (-1,)])
def test_labels_have_different_positive_values(plan: Plan, values: tuple[int, ...]) -> None:
    labels = tuple(Label(name=f"label {n}", value=value) for n, value in enumerate(values))
    with pytest.raises(PlanError, match=r"labels: values .* must be different and positive"):
        check_plan(plan.model_copy(update={"labels": labels}))


def test_a_plan_needs_a_configuration(plan: Plan) -> None:
    with pytest.raises(PlanError, match="configurations: none"):
        check_plan(plan.model_copy(update={"configurations": ()}))


def test_regions_ignore_and_losses_must_go_together(plan: Plan) -> None:
    value = plan.labels[0].value
    regions = (Region(name="all", values=(value, 77), value=value),)
    for changes, complaint in (
        ({"regions": regions}, r"regions\.0: values \[77\], must be values of labels"),
        ({"regions": regions}, r"3d_fullres\.loss\.terms\.1: cross_entropy is for labels"),
        ({"ignore": value}, f"ignore: {value}, must be positive and no label's value"),
        ({"ignore": 0}, "ignore: 0, must be positive"),
    ):
        with pytest.raises(PlanError, match=complaint):
            check_plan(plan.model_copy(update=changes))
    setting = f'{FULL}.loss.terms.1={{"kind": "binary_cross_entropy"}}'
    with pytest.raises(PlanError, match="binary_cross_entropy is for regions"):
        check_plan(edit_plan(plan, [setting]))


def test_a_plan_for_regions_with_partial_annotation_is_in_order() -> None:
    facts = make_fingerprint([((5.0, 0.8, 0.8), (20, 200, 200))] * 40)
    dataset = make_dataset(40)
    labels = (Label(name="rim", value=1), Label(name="core", value=2))
    regions = (
        Region(name="whole", values=(1, 2), value=1),
        Region(name="core", values=(2,), value=2),
    )
    changes = {"labels": labels, "regions": regions, "ignore": 9}
    plan = planning.make_plan(dataset.model_copy(update=changes), facts, BUDGET)
    check_plan(plan)
    assert plan.targets == Targets(labels=labels, regions=regions, ignore=9)
    assert {item.name for item in plan.configurations} >= {"2d", "2.5d", "3d_fullres"}
    for item in plan.configurations:
        assert [term.kind for term in item.loss.terms] == ["dice", "binary_cross_entropy"]
    # Weights of classes go by label, though there are two regions.
    weighted = FULL + '.loss.terms.1={"kind": "adaptive_cross_entropy", "class_weights": '
    check_plan(edit_plan(plan, [weighted + "[1, 2, 3]}"]))
    with pytest.raises(PlanError, match="class_weights: 2 given, must be 3"):
        check_plan(edit_plan(plan, [weighted + "[1, 2]}"]))


@pytest.mark.parametrize("name", ["2d", "2.5d", "3d_fullres"])
def test_counts_are_those_of_the_network_and_of_its_patch(name: str) -> None:
    facts = make_fingerprint([((5.0, 0.8, 0.8), (20, 200, 200))] * 40)
    plan = planning.make_plan(make_dataset(40), facts, BUDGET)
    check_plan(plan)
    item = next(item for item in plan.configurations if item.name == name)
    with torch.device("meta"):  # shapes only
        network = build_network(item.network, channels=1, outputs=2).train()
        outputs = network(torch.zeros(2, 1, *item.patch))
    assert count_outputs(item.network) == len(outputs)
    axes = outputs[0].ndim - 2
    here = f"configurations.{name}.loss"
    check_plan(edit_plan(plan, [
        f"{here}.output_weights={[1.0] * len(outputs)}",
        f'{here}.terms.1={{"kind": "smoothness", "axis_weights": {[1.0] * axes}, "outputs": [0]}}',
    ]))  # fmt: skip


@pytest.mark.parametrize("network", [DSN3D(features=(4, 6, 8), convs=(1, 1, 1)), TwoBranch()])
def test_counts_of_networks_with_side_outputs(network: DSN3D | TwoBranch) -> None:
    patch = (16, 16) if isinstance(network, TwoBranch) else (8, 8, 8)
    if isinstance(network, TwoBranch):
        network = TwoBranch(encoder=(((3, 4),), ((3, 4),)), ups=(4,), decoder=(), branch=((3, 4),))
    outputs = build_network(network, channels=1, outputs=2).train()(torch.zeros(1, 1, *patch))
    assert count_outputs(network) == len(outputs)


def test_names_with_dots_can_be_addressed(plan: Plan) -> None:
    flat = plan.configurations[0].model_copy(update={"name": "2.5d"})
    both = plan.model_copy(update={"configurations": (*plan.configurations, flat)})
    edited = edit_plan(
        both, ["configurations.2.5d.batch=7", "configurations.2d.batch=5", "labels.label 1.value=9"]
    )
    assert [item.batch for item in edited.configurations] == [5, 2, 7]
    assert edited.labels[0].value == 9
    with pytest.raises(PlanError, match=r"no 'bach' in configurations.2.5d"):
        edit_plan(both, ["configurations.2.5d.bach=7"])
    with pytest.raises(PlanError, match=r"no '' in configurations\.2d"):
        edit_plan(both, ["configurations.2d.=7"])


def test_constant_ct_foreground_still_gets_a_plan() -> None:
    same = dict.fromkeys(("mean", "median", "minimum", "maximum"), 5.0)
    edges = dict.fromkeys(("percentile_00_5", "percentile_99_5"), 5.0)
    facts = INTENSITIES.model_copy(update={**same, **edges, "std": 0.0})
    fingerprint = make_fingerprint([((1.0, 1.0, 1.0), SHAPE)] * 5, intensities=facts)
    plan = planning.make_plan(make_dataset(5, channels=("CT",)), fingerprint, BUDGET)
    check_plan(plan)


NUMBERS = st.lists(st.integers(-3, 6), min_size=3, max_size=3)


@given(field=st.sampled_from(["strides", "kernels"]), stage=st.integers(0, 3), value=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_any_network_is_accepted_or_complained_about(
    field: str, stage: int, value: list[int]
) -> None:
    edited = edit_plan(make_plan(), [f"{FULL}.network.{field}.{stage}={value}"])
    possible = min(value) >= 1
    if field == "kernels":
        possible = possible and all(size % 2 for size in value)
    else:
        others = 4  # two poolings remain beside the one that is set
        possible = possible and (stage > 0 or value == [1, 1, 1])
        divisors = [n * (others if stage else 2 * others) for n in value]
        possible = possible and not any(n % d for n, d in zip((40, 56, 40), divisors, strict=True))
    if possible:
        check_plan(edited)
    else:
        with pytest.raises(PlanError, match=FULL):
            check_plan(edited)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (
            'loss.terms.1={"kind": "boundary", "labels": ["heart"]}',
            "loss.terms.1.labels: heart, must be some of",
        ),
        ('loss.terms.1={"kind": "segments", "labels": []}', "loss.terms.1.labels: none, must be"),
        (
            'loss.terms=[{"kind": "segments"}, {"kind": "segments", "length": 12}]',
            "loss.terms: two terms ask for different maps of kind 'segments': length 8 and 12",
        ),
        (
            'loss.terms=[{"kind": "signed_distance"}, {"kind": "signed_distance"}]',
            "loss.terms: signed_distance stands there twice",
        ),
        (
            'loss.terms.1={"kind": "boundary", "outputs": [1]}',
            "loss.terms.1.outputs: boundary judges output 0 only",
        ),
        (
            'loss.terms.1={"kind": "cross_entropy", "outputs": [-1]}',
            "loss.terms.1.outputs: [-1], must be numbers of outputs",
        ),
        (
            'loss.terms.1={"kind": "cross_entropy", "outputs": [0, 9]}',
            "loss.terms.1.outputs: [0, 9], the unet has outputs 0 to 2",
        ),
        ("loss.output_weights=[1.0, 0.5]", "loss.output_weights: 2 given, must be 3, from full"),
        ("loss.output_weights=[1, 1, 1, 1]", "loss.output_weights: 4 given, must be 3, from"),
        (
            'loss.terms.1={"kind": "cross_entropy", "class_weights": [1.0]}',
            "loss.terms.1.class_weights: 1 given, must be 3: of background and every label",
        ),
        (
            'loss.terms.1={"kind": "adaptive_cross_entropy", "class_weights": [1, 2, 3, 4]}',
            "loss.terms.1.class_weights: 4 given, must be 3",
        ),
        (
            'loss.terms.1={"kind": "smoothness", "axis_weights": [1, 1]}',
            "loss.terms.1.axis_weights: 2 given, must be 3: one an axis of the patch",
        ),
        ("loss.encoder_heads=2", "loss.output_weights: 0 given, must be"),
        ("loss.encoder_heads=9", "loss.encoder_heads: 9, there are"),
        ('network={"kind": "two_branch"}', "network: two_branch is for patches of two axes"),
        (
            'network={"kind": "two_branch", "ups": [8]}',
            "network: must have one of ups less than encoder stages",
        ),
        (
            'network={"kind": "two_branch", "branch": [[4, 8]]}',
            "network: every stage must have layers, with odd kernels",
        ),
    ],
)
def test_terms_that_cannot_work_together_or_name_no_label(
    plan: Plan, setting: str, complaint: str
) -> None:
    edited = edit_plan(plan, [f"{FULL}.{setting}"])
    with pytest.raises(PlanError) as error:
        check_plan(edited)
    assert f"{FULL}.{complaint}" in error.value.message


def test_heads_that_a_network_cannot_have(plan: Plan) -> None:
    flat = "configurations.2d"
    edited = edit_plan(
        plan,
        [
            f'{flat}.network={{"kind": "two_branch"}}',
            f'{flat}.loss.terms=[{{"kind": "signed_distance"}}]',
            f"{flat}.loss.encoder_heads=1",
        ],
    )
    with pytest.raises(PlanError) as error:
        check_plan(edited)
    assert f"{flat}.loss.terms: signed_distance has no head in two_branch" in error.value.message
    assert f"{flat}.loss.encoder_heads: two_branch has none" in error.value.message
    full = next(item for item in plan.configurations if item.name == "3d_fullres")
    weights = [1.0] * (len(full.network.features) - 1 + 1)
    check_plan(
        edit_plan(plan, [f"{FULL}.loss.encoder_heads=1", f"{FULL}.loss.output_weights={weights}"])
    )


def test_shape_models_are_of_known_labels_and_of_networks_that_see_them_whole(plan: Plan) -> None:
    term = ShapeCodeTerm(labels=("spleen",))

    def with_term(configuration: Configuration) -> Configuration:
        terms = (*configuration.loss.terms, term)
        return configuration.model_copy(
            update={"loss": configuration.loss.model_copy(update={"terms": terms})}
        )

    configurations = tuple(with_term(item) for item in plan.configurations)
    shapes = plan.shapes.model_copy(update={"labels": ("heart",)})
    with pytest.raises(PlanError) as caught:
        check_plan(plan.model_copy(update={"configurations": configurations, "shapes": shapes}))
    message = str(caught.value)
    assert "shapes.labels: heart is no label of this plan" in message
    assert "configurations.3d_fullres.loss.terms.2.labels: spleen, must be some of " in message
    assert "configurations.2d.loss.terms.2: shape_code needs a network of three axes" in message
    assert "configurations.3d_fullres.loss.terms.2: shape_code needs" not in message
