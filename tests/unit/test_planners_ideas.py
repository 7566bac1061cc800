"""What shapes nominate: each rule with its limit, and ideas that can be trained as they stand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from plannerfacts import ORGAN, VESSELS, make_dataset, make_fingerprint
from selfseg.planners.ideas import nominate
from selfseg.planners.label_shapes import LabelShape, Shapes, gather_shapes
from selfseg.planners.rarity import annotated_share, class_voxels
from selfseg.planners.shape_models import decide_shape_models
from selfseg.planners.tubes import decide_tube_term, decide_tubes

from selfseg import planning
from selfseg.folds import find_configuration
from selfseg.losses.build import build_loss
from selfseg.networks.build import build_training_network
from selfseg.networks.training_heads import needed_heads
from selfseg.preprocessing.loss_maps import make_map
from selfseg.racing.arms import arm_plan
from selfseg.records.dataset import Dataset, Region, Targets
from selfseg.records.fingerprint import Fingerprint, LabelFacts, LabelSummary
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm, SmoothnessTerm
from selfseg.records.network import ContextUNet, Network, UNet
from selfseg.records.plan import Budget, Configuration, Plan
from selfseg.records.serial import Triple
from selfseg.records.shapes import ShapeSummary

PLAIN = Loss(terms=(DiceTerm(), CrossEntropyTerm()))
ONE_MM = 1.0
FAINT_ORGAN = ORGAN.model_copy(update={"median_contrast": (0.4, None, 0.7)})


def shapes(
    *found: ShapeSummary, voxels: float = 5000, cases: int = 100, extents: tuple[Triple, ...] = ()
) -> Shapes:
    labels = tuple(
        LabelShape(f"label {n}", voxels, shape, extents) for n, shape in enumerate(found, 1)
    )
    return Shapes(labels, None, cases)


def planned(
    shape: ShapeSummary, *, cases: int = 60, voxels: int = 5000, size: int = 64
) -> tuple[Dataset, Fingerprint]:
    """Return facts of volumes with 5 mm slices that have one label of that shape."""
    fingerprint = make_fingerprint([((5.0, 1.0, 1.0), (20, size, size))] * cases)
    fact = LabelFacts(
        voxels=voxels, volume_ml=1, components=1, largest_share=1, extent_mm=(10, 10, 10)
    )
    summary = LabelSummary(
        name="label 1", share_of_cases=1, median_voxels=voxels, median_volume_ml=1,
        median_components=1, median_largest_share=1, median_extent_mm=(10, 10, 10), shape=shape,
    )  # fmt: skip
    facts = [case.model_copy(update={"labels": (fact,)}) for case in fingerprint.cases]
    return make_dataset(cases, labels=1), fingerprint.model_copy(
        update={"cases": tuple(facts), "labels": (summary,)}
    )


def plan_of(shape: ShapeSummary, *, cases: int = 60, voxels: int = 5000) -> Plan:
    dataset, fingerprint = planned(shape, cases=cases, voxels=voxels)
    return planning.make_plan(dataset, fingerprint, Budget(memory_gib=8.0, device="cpu"))


def configuration(name: str = "3d_fullres") -> Configuration:
    return next(item for item in plan_of(ORGAN).configurations if item.name == name)


def names(ideas: tuple[Idea, ...]) -> list[str]:
    return [idea.name for idea in ideas]


def test_thin_tubes_get_a_tube_loss_at_once_and_keep_their_components() -> None:
    plan = plan_of(VESSELS)
    assert plan.tubular == ("label 1",)
    for item in plan.configurations:
        (term,) = (term for term in item.loss.terms if term.kind == "cl_dice")
        assert term.weight < 1
        assert term.start > 0
        reasons = [
            d for d in plan.decisions if d.subject == f"configurations.{item.name}.loss.terms"
        ]
        assert "50% of their length" in reasons[0].because
    assert any(d.subject == "tubular.label 1" for d in plan.decisions)
    assert "segments" in names(plan.nominated)


@pytest.mark.parametrize(
    ("change", "has_term"),
    [
        ({"median_thin_share": 0.3}, True),
        ({"median_thin_share": 0.29}, False),
        ({"median_r50_mm": 6.0}, True),
        ({"median_r50_mm": 6.1}, False),
        ({"median_elongation": 9.0}, False),
    ],
)
def test_thick_or_other_labels_get_none(change: dict[str, float], has_term: bool) -> None:
    found = shapes(VESSELS.model_copy(update=change))
    loss, decisions = decide_tube_term("2d", PLAIN, found, (ONE_MM, ONE_MM))
    assert (len(loss.terms) == 3) == has_term == bool(decisions)
    assert ("segments" in names(nominate(configuration("2d"), found))) == has_term


def test_a_label_that_is_no_tube_decides_nothing() -> None:
    assert decide_tubes(shapes(ORGAN)) == ((), ())
    assert decide_tubes(shapes(ORGAN, VESSELS))[0] == ("label 2",)


def test_soft_skeletons_are_for_planes_and_for_tubes_thin_in_space() -> None:
    thin = shapes(VESSELS.model_copy(update={"median_r95_mm": 4.0}))
    thick = shapes(VESSELS.model_copy(update={"median_r95_mm": 4.1}))
    space, plane = (ONE_MM,) * 3, (ONE_MM,) * 2
    assert decide_tube_term("3d_fullres", PLAIN, thin, space)[1]
    assert not decide_tube_term("3d_fullres", PLAIN, thick, space)[1]
    loss, _ = decide_tube_term("2d", PLAIN, thick, plane)
    assert loss.terms[-1].model_dump()["iterations"] == 6  # the radius, rounded up, and one
    assert loss.terms[-1].model_dump()["labels"] == ("label 1",)
    for item in (configuration("3d_fullres"), configuration("2d")):
        assert "skeleton_recall" in names(nominate(item, thick))


def test_errors_weigh_more_with_few_cases_or_faint_borders() -> None:
    sharp = ORGAN.model_copy(update={"median_contrast": (1.0,)})
    item = configuration()
    assert "adaptive_cross_entropy" in names(nominate(item, shapes(sharp, cases=50)))
    assert "adaptive_cross_entropy" not in names(nominate(item, shapes(sharp, cases=51)))
    (idea, *_) = nominate(item, shapes(FAINT_ORGAN, cases=51))
    assert (idea.name, idea.replaces) == ("adaptive_cross_entropy", ("cross_entropy",))
    assert "0.7" in idea.because  # of the channel that shows it best


def test_smoothness_is_for_faint_organs_and_never_beside_thin_or_small_labels() -> None:
    item = configuration()
    (idea,) = (i for i in nominate(item, shapes(FAINT_ORGAN)) if i.name == "smoothness")
    (term,) = idea.terms
    assert isinstance(term, SmoothnessTerm)
    assert term.axis_weights == pytest.approx((0.04, 1, 1))
    for other in (
        shapes(ORGAN),
        shapes(FAINT_ORGAN, VESSELS),
        shapes(FAINT_ORGAN, voxels=999),
        shapes(VESSELS.model_copy(update={"median_contrast": (0.4,)})),
    ):
        assert "smoothness" not in names(nominate(item, other))


def test_distances_are_for_few_cases_of_compact_labels() -> None:
    item = configuration()
    (idea,) = (i for i in nominate(item, shapes(ORGAN, VESSELS, cases=60)) if "dist" in i.name)
    assert idea.terms[0].model_dump()["labels"] == idea.labels == ("label 1",)
    assert "signed_distance" not in names(nominate(item, shapes(ORGAN, cases=61)))
    assert "signed_distance" not in names(nominate(item, shapes(VESSELS, cases=10)))


def test_a_shape_is_constrained_where_patches_show_it_whole() -> None:
    item = configuration()  # 5 mm slices
    fits = (10.0, 30.0, 30.0)
    tall = (5.0 * item.patch[0], 30.0, 30.0)
    found = shapes(ORGAN, cases=60, extents=(fits,) * 19 + (tall,))
    (idea, *_) = nominate(item, found)
    assert (idea.name, idea.labels) == ("shape_code", ("label 1",))
    for other in (
        shapes(ORGAN, cases=61, extents=(fits,) * 20),
        shapes(ORGAN, cases=60, extents=(fits,) * 18 + (tall,) * 2),
        shapes(VESSELS, cases=10, extents=(fits,) * 20),
    ):
        assert "shape_code" not in names(nominate(item, other))
    for flat in ("2d", "2.5d"):  # never show a whole organ
        assert "shape_code" not in names(nominate(configuration(flat), found))


def test_parts_are_hidden_where_a_shape_would_be_constrained() -> None:
    item, fits = configuration(), (10.0, 30.0, 30.0)
    found = nominate(item, shapes(ORGAN, VESSELS, cases=10, extents=(fits,) * 10))
    (idea,) = (idea for idea in found if idea.name == "hidden_parts")
    assert (idea.hidden_p, idea.terms, idea.labels) == (0.7, (), ("label 1",))
    assert idea.changes == ("a part hidden in 70% of the samples",)
    for other in (shapes(ORGAN, cases=61), shapes(VESSELS, cases=10)):
        assert "hidden_parts" not in names(nominate(item, other))


def test_predicted_shapes_are_scored_where_that_costs_seconds() -> None:
    volumes = plan_of(ORGAN).configurations
    options, (decision,) = decide_shape_models(shapes(ORGAN, VESSELS, cases=10), volumes, "cpu")
    assert options.labels == ("label 1",)
    assert decision.value == "label 1"
    options, (decision,) = decide_shape_models(shapes(ORGAN, cases=11), volumes, "cpu")
    assert options.labels == ()
    assert decision.alternatives == ("label 1",)
    assert decide_shape_models(shapes(VESSELS, cases=5), volumes, "cpu")[1] == ()
    assert decide_shape_models(shapes(ORGAN, cases=5), (configuration("2d"),), "cpu")[1] == ()


def test_radii_weigh_where_they_differ() -> None:
    item = configuration("2d")
    even = VESSELS.model_copy(update={"median_r95_mm": 2.9})  # of 1.5
    assert "cb_dice" in names(nominate(item, shapes(VESSELS)))
    assert "cb_dice" not in names(nominate(item, shapes(even)))


def test_rare_labels_nominate_distances_and_class_weights() -> None:
    found = replace(shapes(ORGAN), rarity=(0.9995, 0.0005))
    ideas = {idea.name: idea for idea in nominate(configuration(), found)}
    assert {"boundary", "class_weights"} <= set(ideas)
    (weighted,) = ideas["class_weights"].terms
    assert isinstance(weighted, CrossEntropyTerm)
    assert weighted.class_weights == pytest.approx((0.707, 4.0))
    assert "boundary" not in names(nominate(configuration(), replace(found, cases=501)))
    common = replace(found, rarity=(0.999, 0.001))
    assert not {"boundary", "class_weights"} & set(names(nominate(configuration(), common)))
    # The 2.5D network weighs its classes already.
    assert "class_weights" not in names(nominate(configuration("2.5d"), found))


def test_several_lesions_of_different_size_nominate_a_dice_of_each() -> None:
    lesions = ORGAN.model_copy(update={"components_mode": 3, "median_size_spread": 2.0})
    assert "blob_dice" in names(nominate(configuration(), shapes(lesions)))
    alike = lesions.model_copy(update={"median_size_spread": 1.9})
    assert "blob_dice" not in names(nominate(configuration(), shapes(alike)))


def test_regions_are_not_measured_and_nominate_nothing_by_shape() -> None:
    dataset, fingerprint = planned(VESSELS)
    region = Region(name="all", values=(1,), value=1)
    found = gather_shapes(dataset.model_copy(update={"regions": (region,)}), fingerprint)
    assert found == Shapes((), None, 60)


def test_frequencies_are_those_of_annotated_voxels() -> None:
    _, fingerprint = planned(ORGAN, cases=2, voxels=20)
    half = [case.model_copy(update={"annotated_share": 0.5}) for case in fingerprint.cases]
    total, fingerprint = 20 * 64 * 64, fingerprint.model_copy(update={"cases": tuple(half)})
    assert class_voxels(fingerprint) == (total - 40, 40)
    assert annotated_share(fingerprint) == 0.5


def small(network: Network) -> Network:
    """Return a network of the same kind with three narrow stages."""
    assert isinstance(network, UNet | ContextUNet)
    changes: dict[str, object] = {"features": (4,) * 3, "strides": network.strides[:3]}
    if isinstance(network, UNet):
        once = {"convs_encoder": (1,) * 3, "convs_decoder": (1,) * 2}
        return network.model_copy(update={**changes, **once, "kernels": network.kernels[:3]})
    once = {"blocks_encoder": (1,) * 3, "blocks_decoder": (1,) * 2}
    return network.model_copy(update={**changes, **once, "aspp_features": 4})


def two_cases() -> np.ndarray:
    """Return a case with a tube in half of its slices, and one without the label."""
    label = np.zeros((2, 8, 32, 32), np.int16)
    label[0, 4:, 12:17, 3:29] = 1
    return label


def one_batch(item: Configuration, targets: Targets) -> tuple[torch.Tensor, ...]:
    """Return image, label and maps of two samples as the configuration sees them, one empty."""
    label = two_cases()
    spacing = [size or 5.0 for size in item.preprocessing.spacing_mm]
    flat, options = len(item.patch) == 2, needed_maps(item.loss)
    made = [
        np.concatenate(
            [make_map(case, wanted, targets, spacing, flat=flat) for wanted in options]
            or [np.zeros((0, *case.shape), np.int16)]
        )
        for case in label
    ]
    maps, image = np.stack(made), label[:, None] + 0.1
    if flat:  # a slice with the label, and an empty one of the same case
        image, label, maps = (part[0][..., (5, 1), :, :] for part in (image, label[:, None], maps))
        image, label, maps = (np.moveaxis(part, -3, 0) for part in (image, label, maps))
        label = label[:, 0]
    if item.context:
        middle = slice(5, 6)
        seen = slice(5 - item.context, 6 + item.context)
        image, label, maps = image[:, :, seen], label[:, middle], maps[:, :, middle]
    return (
        torch.from_numpy(image).float(),
        torch.from_numpy(label).long(),
        torch.from_numpy(np.ascontiguousarray(maps)),
    )


def check_a_step(item: Configuration, targets: Targets) -> None:
    """Go forth and back as training does: finite, and further heads learn."""
    torch.manual_seed(0)
    network = build_training_network(
        small(item.network), channels=1, outputs=targets.outputs,
        heads=needed_heads(item.loss, targets),
    ).train()  # fmt: skip
    loss = build_loss(item.loss, targets)
    loss.progress = 0.5  # terms that fade in have begun
    image, label, maps = one_batch(item, targets)
    value = loss(network(image), label, maps)
    value.backward()
    assert torch.isfinite(value)
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
    heads = [weight for name, weight in network.named_parameters() if "training_heads" in name]
    assert all(bool(weight.grad is not None and weight.grad.any()) for weight in heads)


@pytest.mark.parametrize("name", ["2d", "2.5d", "3d_fullres"])
@pytest.mark.parametrize("shape", [VESSELS, FAINT_ORGAN], ids=["vessels", "organ"])
def test_every_idea_can_be_trained_on_its_configuration(name: str, shape: ShapeSummary) -> None:
    """Each idea, and each pair, as a race takes it up: checked, with its heads and its maps."""
    plan = plan_of(shape)
    item = find_configuration(plan, name)
    ideas = nominate(item, replace(shapes(shape, cases=10), rarity=(0.9995, 0.0005)))
    assert len(ideas) >= 4
    plain = plan.model_copy(update={"nominated": ideas})
    targets = plain.targets
    pairs = [(a, b) for a, b in combinations(ideas, 2) if not {*a.replaces} & {*b.replaces}]
    for chosen in (*((idea,) for idea in ideas), *pairs):
        made = arm_plan(plain, item.name, chosen)
        arm = find_configuration(made, item.name)
        kinds = [term.kind for term in arm.loss.terms]
        assert {term.kind for idea in chosen for term in idea.terms} <= set(kinds)
        check_a_step(arm, targets)
