"""Rules for starting from a model: the strategy, and a plan that fits it or says why not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from plannerfacts import make_dataset, make_fingerprint
from selfseg.planners.default import DefaultPlanner
from selfseg.planners.transfer import decide_transfer

from selfseg.adopting import adopt_model
from selfseg.errors import PlanError
from selfseg.plan_checks import check_plan
from selfseg.records.network import DualChannel, JointStreams, ResidualUNet, UNet
from selfseg.records.plan import Budget, Configuration, Plan
from selfseg.records.preprocessing import CTNormalization, PercentileNormalization, ZScore
from selfseg.records.serial import Shape3, Triple
from selfseg.records.source import SourceFacts
from selfseg.records.transfer import FineTune, HeadFirst, StartModel, Transfer

CPU, CUDA = Budget(memory_gib=8.0, device="cpu"), Budget(memory_gib=24.0, device="cuda")


def plan_of(
    spacing: Triple = (1.0, 1.0, 1.0),
    shape: Shape3 = (36, 50, 35),
    *,
    channels: Sequence[str] = ("MRI",),
    budget: Budget = CPU,
    cases: int = 20,
) -> Plan:
    fingerprint = make_fingerprint([(spacing, shape)] * cases, channels=len(channels))
    made = DefaultPlanner().plan(make_dataset(cases, channels=channels), fingerprint, budget)
    assert isinstance(made, Plan)
    return made


def configuration(plan: Plan, name: str = "3d_fullres") -> Configuration:
    return next(item for item in plan.configurations if item.name == name)


def facts_of(plan: Plan, name: str = "3d_fullres") -> SourceFacts:
    return SourceFacts(
        model=StartModel(
            folder="models", dataset="other", configuration="3d_fullres", fold="all", digest="1"
        ),
        channels=plan.channels,
        labels=plan.targets.names,
        configuration=configuration(plan, name),
    )


@pytest.mark.parametrize(
    ("cases", "expected"), [(5, HeadFirst()), (60, HeadFirst()), (61, FineTune())]
)
def test_heads_learn_first_where_cases_are_few(cases: int, expected: Transfer) -> None:
    strategy, decision = decide_transfer("2d", cases)
    assert strategy == expected
    assert str(cases) in decision.because
    assert strategy.kind not in decision.alternatives
    assert len(decision.alternatives) == 4


def test_the_plan_holds_the_strategy_of_every_configuration() -> None:
    plan = plan_of()
    assert all(isinstance(item.transfer, HeadFirst) for item in plan.configurations)
    subjects = {decision.subject for decision in plan.decisions}
    assert {f"configurations.{item.name}.transfer" for item in plan.configurations} <= subjects


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_grid_patch_and_network_are_the_model_s(name: str) -> None:
    theirs = plan_of((0.8, 0.8, 0.8), (120, 128, 128), budget=CUDA)
    made = adopt_model(plan_of(), facts_of(theirs, name))
    ours, model = configuration(made, name), configuration(theirs, name)
    assert (ours.patch, ours.network) == (model.patch, model.network)
    assert isinstance(ours.network, ResidualUNet)
    assert ours.preprocessing == model.preprocessing
    assert made.proposed[0] == name
    check_plan(made)
    if name == "3d_fullres":
        assert ours.median_shape == (45.0, 62.0, 44.0)  # 36, 50, 35 mm at 0.8 mm
    taken = {d.subject: d for d in made.decisions if d.rule == "init"}
    network = taken[f"configurations.{name}.network"]
    assert network.value.startswith("residual_unet")
    assert network.alternatives[0].startswith("unet")
    assert all("other 3d_fullres fold all" in decision.because for decision in taken.values())


def test_every_value_of_the_adopted_configuration_is_decided_once() -> None:
    """What the planner said of a patch that is not taken would contradict the one that is."""
    own, theirs = plan_of(), plan_of((0.8, 0.8, 0.8), (120, 128, 128), budget=CUDA)
    made = adopt_model(own, facts_of(theirs))
    subjects = [decision.subject for decision in made.decisions]
    assert len(subjects) == len(set(subjects))
    former, now = (
        {d.subject: d for d in plan.decisions}["configurations.3d_fullres.patch"]
        for plan in (own, made)
    )
    assert (former.rule, now.rule) == ("patch", "init")
    assert now.because.endswith(f"as it was trained, in place of {former.value} (rule patch)")
    # what was decided of other configurations, and whether this one is worth training, stays
    path = "configurations.3d_fullres"
    kept = [d for d in own.decisions if not d.subject.startswith(f"{path}.")]
    assert [d for d in made.decisions if not d.subject.startswith(f"{path}.")] == kept
    assert path in {d.subject for d in kept}


def test_streams_for_the_model_s_second_data_set_are_not_taken() -> None:
    """Its weights have none, and the plan would ask for a data set that is not there."""
    theirs = facts_of(plan_of())
    backbone = theirs.configuration.network
    assert isinstance(backbone, UNet)
    streams = DualChannel(backbone=backbone, variant=JointStreams())
    joint = theirs.configuration.model_copy(update={"network": streams})
    made = adopt_model(plan_of(), theirs.model_copy(update={"configuration": joint}))
    check_plan(made)
    assert configuration(made).network == backbone


def test_another_orientation_is_a_decision() -> None:
    theirs = facts_of(plan_of())
    stored = theirs.configuration.preprocessing.model_copy(update={"orientation": "stored"})
    turned = theirs.configuration.model_copy(update={"preprocessing": stored})

    def told(facts: SourceFacts) -> list[tuple[str, tuple[str, ...]]]:
        decisions = adopt_model(plan_of(), facts).decisions
        subject = "configurations.3d_fullres.preprocessing.orientation"
        return [
            (d.value, d.alternatives) for d in decisions if (d.rule, d.subject) == ("init", subject)
        ]

    assert told(theirs) == []
    assert told(theirs.model_copy(update={"configuration": turned})) == [("stored", ("canonical",))]


def test_what_belongs_to_the_data_stays() -> None:
    plan = plan_of()
    made = configuration(adopt_model(plan, facts_of(plan_of(budget=CUDA))))
    own = configuration(plan)
    assert (made.loss, made.optimization, made.transfer) == (
        own.loss,
        own.optimization,
        own.transfer,
    )


@pytest.mark.parametrize(("z", "fits"), [(2.0, True), (2.1, False), (0.5, True), (0.49, False)])
def test_voxels_of_another_size_are_no_fit(z: float, fits: bool) -> None:
    theirs = facts_of(plan_of())
    plan = plan_of((z, 1.0, 1.0))
    if fits:
        assert configuration(adopt_model(plan, theirs)).preprocessing.spacing_mm == (1, 1, 1)
        return
    with pytest.raises(PlanError, match=r"voxels along Z are .* times its 1 mm") as error:
        adopt_model(plan, theirs)
    assert "--init-config" in error.value.remedy


def test_a_configuration_that_the_plan_does_not_have_is_no_fit() -> None:
    flat = plan_of((1.0, 1.0, 1.0), (1, 200, 200))
    with pytest.raises(PlanError, match=r"the plan has no 3d_fullres \(it has 2d\)"):
        adopt_model(flat, facts_of(plan_of()))


def test_a_network_that_does_not_fit_the_memory_is_no_fit() -> None:
    theirs = facts_of(plan_of((1.0, 1.0, 1.0), (300, 300, 300), budget=CUDA))
    small = plan_of((1.0, 1.0, 1.0), (300, 300, 300), budget=Budget(memory_gib=0.5, device="cpu"))
    with pytest.raises(PlanError, match=r"needs .* GiB, the budget is 0\.5 GiB"):
        adopt_model(small, theirs)


def test_the_batch_shrinks_to_the_memory() -> None:
    theirs = plan_of((1.0, 1.0, 1.0), (60, 60, 60), budget=CUDA, cases=1000)
    model = configuration(theirs)
    wide = model.model_copy(update={"batch": 40})
    facts = facts_of(theirs).model_copy(update={"configuration": wide})
    made = adopt_model(plan_of(shape=(60, 60, 60), budget=CPU), facts)
    ours = configuration(made)
    assert 1 <= ours.batch < 40
    assert ours.memory_gib <= 8.0
    batch = next(
        d for d in made.decisions if d.subject.endswith("3d_fullres.batch") and d.rule == "init"
    )
    assert "8 GiB hold" in batch.because


def test_mirrored_axes_stay_those_of_the_body() -> None:
    """Slices along X here and along Z there: the axes have other numbers in the model's order."""
    theirs = facts_of(plan_of((1.5, 1.0, 1.0), (40, 50, 60)))
    plan = plan_of((1.0, 1.0, 1.5), (40, 50, 60))
    own = configuration(plan)
    assert own.preprocessing.axes == (2, 0, 1)
    only_x = own.augmentation.model_copy(update={"mirror_axes": (0,)})
    changed = own.model_copy(update={"augmentation": only_x})
    plan = plan.model_copy(update={"configurations": (changed,), "proposed": ()})
    made = configuration(adopt_model(plan, theirs))
    assert made.preprocessing.axes == (0, 1, 2)
    assert made.augmentation.mirror_axes == made.inference.mirror_axes == (2,)


def normalized(plan: Plan, *values: object) -> Plan:
    changed = tuple(
        item.model_copy(
            update={
                "preprocessing": item.preprocessing.model_copy(update={"normalization": values})
            }
        )
        for item in plan.configurations
    )
    return plan.model_copy(update={"configurations": changed})


def test_intensities_are_normalized_as_the_filters_know_them() -> None:
    known = CTNormalization(lower=-100, upper=300, mean=90, std=40)
    theirs = normalized(plan_of(channels=("CT",)), known)
    made = adopt_model(plan_of(channels=("CT",)), facts_of(theirs))
    assert configuration(made).preprocessing.normalization == (known,)


def test_hounsfield_units_do_not_scale_mr() -> None:
    theirs = plan_of(channels=("CT",))
    made = adopt_model(plan_of(channels=("MRI",)), facts_of(theirs))
    assert isinstance(configuration(made).preprocessing.normalization[0], ZScore)
    reason = next(
        d.because
        for d in made.decisions
        if d.subject.endswith("normalization") and d.rule == "init"
    )
    assert "'MRI' is not on the scale of 'CT' (ct): its own" in reason


def test_channels_are_normalized_by_name() -> None:
    zscore, percentile = ZScore(), PercentileNormalization()
    theirs = normalized(plan_of(channels=("T1", "T2", "PET")), zscore, zscore, percentile)
    own = normalized(plan_of(channels=("PET", "FLAIR")), zscore, zscore)
    made = configuration(adopt_model(own, facts_of(theirs)))
    assert made.preprocessing.normalization == (percentile, zscore)
    two = normalized(plan_of(channels=("T1", "T2")), zscore, percentile)
    made = configuration(adopt_model(own, facts_of(two)))
    assert made.preprocessing.normalization == (zscore, percentile)  # in order: no name agrees
    others = normalized(plan_of(channels=("FLAIR", "T2")), percentile, percentile)
    made = configuration(adopt_model(own, facts_of(others)))
    assert made.preprocessing.normalization == (zscore, percentile)  # PET has no counterpart


def test_a_cascade_s_second_stage_is_no_start() -> None:
    theirs = plan_of((1.0, 1.0, 1.0), (600, 600, 600), budget=Budget(memory_gib=4, device="cuda"))
    with pytest.raises(PlanError, match="second stage of a cascade, after 3d_lowres"):
        adopt_model(theirs, facts_of(theirs, "3d_cascade"))


def test_networks_of_a_cpu_are_not_halved_again() -> None:
    theirs = plan_of(budget=CPU)
    network = configuration(adopt_model(plan_of(budget=CPU), facts_of(theirs))).network
    assert isinstance(network, UNet)
    assert network == configuration(theirs).network
