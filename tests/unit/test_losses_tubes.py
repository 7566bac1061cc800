"""Terms on tubes and distances: centerline boundary Dice, weights of segments, signed distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from targets import nested, plain

from selfseg.losses.build import build_loss
from selfseg.losses.maps import DISTANCE_PARTS
from selfseg.losses.segment_weights import piece_weights, skeletons
from selfseg.losses.signed_distance import relative_distance
from selfseg.losses.skeleton import skeleton_and_depth
from selfseg.preprocessing.loss_maps import make_map
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_maps import OUTSIDE_IMAGE, map_of
from selfseg.records.loss_terms import (
    BoundaryTerm,
    CbDiceTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    SegmentTerm,
    SegmentWeightsTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
)

ONE = plain(1)
CB = CbDiceTerm(iterations=4)


def stacked_map(term: LossTerm, label: np.ndarray, targets: Targets = ONE) -> torch.Tensor | None:
    """Return the map that a term needs of one label map (y, x) or (z, y, x), as a batch."""
    options = map_of(term)
    if options is None:
        return None
    flat = label.ndim == 2
    volume = label[None] if flat else label
    made = make_map(volume.astype(np.int16), options, targets, (1.0, 1.0, 1.0), flat=flat)
    return torch.from_numpy(made[:, 0] if flat else made)[None]


def cost(term: LossTerm, p: np.ndarray, label: np.ndarray) -> float:
    """Return a term's cost of foreground probabilities, at weight 1."""
    p = np.clip(p.astype(float), 1e-9, 1 - 1e-9)
    logits = torch.tensor(np.stack([np.log(1 - p), np.log(p)]))[None]
    loss = build_loss(Loss(terms=(term.model_copy(update={"weight": 1.0}),)), ONE)
    return float(loss((logits,), torch.tensor(label)[None].long(), stacked_map(term, label)))


def tubes() -> np.ndarray:
    """Return a thick and a thin bar, 7 and 3 pixels wide."""
    label = np.zeros((40, 60), int)
    label[8:15, 5:55] = 1
    label[28:31, 5:55] = 1
    return label


def test_depth_is_the_number_of_steps_to_the_outside() -> None:
    label = torch.from_numpy(tubes())[None, None].float()
    depth = skeleton_and_depth(label, 10)[1][0, 0]
    assert depth[7:16, 30].tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert int(skeleton_and_depth(label, 2)[1].max()) == 3


@pytest.mark.parametrize("axes", [2, 3])
def test_identical_masks_cost_nothing(axes: int) -> None:
    label = tubes()
    if axes == 3:
        label = np.zeros((14, 14, 40), int)
        label[2:9, 2:9, 4:36] = 1
        label[11, 11, 4:36] = 1
    terms = (CB, ClDiceTerm(iterations=4), SegmentWeightsTerm(), SegmentTerm())
    for term in terms:
        assert cost(term, label, label) == pytest.approx(0, abs=2e-3)  # what rims of ranges add
    assert cost(CB, label, label) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_centerline_boundary_dice_equals_its_formula(axes: int) -> None:
    """Two tubes of different radius; both are found by half, the thick one too thin."""
    label = tubes() if axes == 2 else np.zeros((14, 14, 24), int)
    if axes == 3:
        label[1:8, 1:8, 3:21] = 1
        label[9:12, 9:12, 3:21] = 1
    found = label.copy()
    found[..., found.shape[-1] // 2 :] = 0
    found[: 3 if axes == 3 else 10] = 0

    def parts(mask: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = torch.from_numpy(mask)[None, None].float()
        line = skeleton_and_depth(given, 4)[0][0, 0].numpy()
        radii = depth[line > 0]
        thinness = (radii.max() - depth + radii.min()) / radii.max()
        weight = line * np.clip(thinness, 0, None) ** (axes - 1)
        return line, weight, np.minimum(depth, radii.max()) / radii.max()

    steps = ndimage.distance_transform_cdt(found, "taxicab")
    depth = ndimage.distance_transform_edt(label)
    line, weight, deep = parts(found, np.minimum(steps, 5).astype(float))
    true_line, true_weight, true_deep = parts(label, depth)
    due = np.where(true_line > 0, true_deep, deep)
    precision = ((weight * true_deep).sum() + 1) / ((weight * due).sum() + 1)
    due = np.where(line > 0, deep, true_deep)
    recall = ((true_weight * deep).sum() + 1) / ((true_weight * due).sum() + 1)
    expected = 1 - 2 * precision * recall / (precision + recall)
    assert expected > 0.1
    assert cost(CB, found, label) == pytest.approx(expected, abs=2e-3)  # depths in 64ths


def test_a_thin_branch_that_is_missed_costs_more_than_a_thick_one() -> None:
    label = tubes()
    without_thin, without_thick = label.copy(), label.copy()
    without_thin[20:] = 0
    without_thick[:20] = 0
    assert cost(CB, without_thin, label) > cost(CB, without_thick, label) + 0.05


def test_weights_of_pieces_are_those_of_the_published_examples() -> None:
    """Eight pixels of a tube of width 3, found 2 wide, or with a gap of two pixels."""
    reference, found = np.zeros((2, 15, 30), bool)
    segments = np.zeros((15, 30), int)
    reference[6:9, 3:27] = True
    segments[3:12, 11:19], segments[7, 11:19] = 1, -1
    found[6:8, 3:27] = True

    def weights(mask: np.ndarray, line: torch.Tensor | None = None) -> torch.Tensor:
        ids, true, now = (torch.from_numpy(a)[None, None] for a in (segments, reference, mask))
        return piece_weights(ids, true, now, skeletons(now) if line is None else line, None)[0, 0]

    assert bool((weights(reference) == 1).all())
    assert float(weights(found)[7, 15]) == pytest.approx(4 / 3)
    assert float(weights(found)[4, 11]) == pytest.approx(4 / 3)  # all of the range
    assert float(weights(found)[7, 5]) == 1
    gap = reference.copy()
    gap[:, 14:16] = False
    line = torch.zeros(1, 1, 15, 30, dtype=torch.bool)
    line[..., 7, 11:14] = line[..., 7, 16:19] = True  # six of eight
    assert float(weights(gap, line)[7, 12]) == 2
    wide = np.zeros_like(reference)
    wide[3:12, 3:27] = True  # three times as wide: nothing clips the weight
    assert float(weights(wide)[7, 15]) == pytest.approx(3)
    stray = reference.copy()
    stray[13, 2:6] = True
    assert float(weights(stray)[13, 4]) == 2
    assert float(weights(stray)[13, 10]) == 1


def test_the_loss_of_segments_is_a_cross_entropy_with_the_weights_of_the_gradient() -> None:
    label = np.zeros((15, 30), int)
    label[7, 3:27] = 1
    p = np.full(label.shape, 0.3)
    term = SegmentWeightsTerm()
    segments = stacked_map(term, label)
    assert segments is not None
    near = segments[0, 0].numpy() != 0
    weights = np.where(label == 1, 0.8, np.where(near, 0.35, 0.2))
    surprise = -np.log(np.where(label == 1, p, 1 - p))
    missed = np.where(near, 2.0, 1.0)  # nothing is predicted
    assert cost(term, p, label) == pytest.approx((weights * missed * surprise).mean(), rel=1e-5)
    wide = np.full(label.shape, 0.3)
    wide[5:10] = 0.9
    free = cost(term, wide, label)
    clipped = cost(term.model_copy(update={"largest": 3.0}), wide, label)
    assert 0 < clipped < free


def test_between_two_thinnings_the_true_line_stands_for_the_predicted_one() -> None:
    label = tubes()
    term = SegmentWeightsTerm(every=5)
    loss = build_loss(Loss(terms=(term,)), ONE)
    p = np.clip(np.roll(label, 6, axis=0).astype(float), 0.2, 0.8)
    logits = torch.tensor(np.stack([np.log(1 - p), np.log(p)]))[None]
    values = []
    for step in (0, 1, 4, 5):
        loss.step = step
        given = (logits,), torch.tensor(label)[None].long(), stacked_map(term, label)
        values.append(float(loss(*given)))
    assert values[0] == values[3] != values[1] == values[2]


def test_relative_distances_reach_from_minus_one_to_one() -> None:
    label = np.zeros((20, 40), int)
    label[6:13, 10:30] = 1
    distance = stacked_map(SignedDistanceTerm(), label)
    assert distance is not None
    every = torch.ones_like(distance, dtype=torch.bool)
    relative = relative_distance(distance.float() / DISTANCE_PARTS, every)[0, 0].numpy()
    assert relative.min() == -1
    assert relative[9, 20] == -1
    assert relative.max() == 1
    assert relative[6, 20] == 0
    known = torch.ones(1, 1, 20, 40, dtype=torch.bool)
    known[..., 5:] = False
    assert not relative_distance(distance.float(), known)[..., 5:].any()


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_signed_distances_cost_as_the_formula_says(sure: float) -> None:
    label = np.zeros((20, 40), int)
    label[6:13, 10:30] = 1
    term = SignedDistanceTerm(weight=1.0)
    stacked = stacked_map(term, label)
    assert stacked is not None
    every = torch.ones_like(stacked, dtype=torch.bool)
    true = relative_distance(stacked.double() / DISTANCE_PARTS, every)
    rng = np.random.default_rng(0)
    found = torch.from_numpy(np.clip(sure * true.numpy(), -0.999, 0.999))
    found = found + (1 - sure) * torch.from_numpy(rng.uniform(-0.9, 0.9, found.shape))
    logits = torch.from_numpy(rng.normal(size=(1, 2, 20, 40)))
    output = torch.cat((logits, found.atanh()), dim=1)
    loss = build_loss(Loss(terms=(term,)), ONE)
    labels = torch.tensor(label)[None].long()
    s, t = found.numpy(), true.numpy()
    both = (s * t).sum()
    apart = (1 / (1 + np.exp(50 * s)) - logits.softmax(1)[:, 1:].numpy()) ** 2
    expected = (
        np.abs(s - t).mean()
        - (both + 1e-5) / (both + (s**2).sum() + (t**2).sum() + 1e-5)
        + 0.1 * apart.mean()
    )
    assert float(loss((output,), labels, stacked)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="a head for distances"):
        loss((logits,), labels, stacked)
    with torch.no_grad():  # validation has no such head
        assert float(loss((logits,), labels, stacked)) == 0


def surface_cost(
    found: torch.Tensor, label: np.ndarray, stacked: torch.Tensor, *, sure: float = 20.0
) -> float:
    """Return the cost of signed distances (y, x) beside a segmentation that is right."""
    right = torch.from_numpy(np.where(label > 0, sure, -sure)).float()
    output = torch.stack((torch.zeros_like(right), right, found.atanh()))[None]
    loss = build_loss(Loss(terms=(SignedDistanceTerm(weight=1.0),)), ONE)
    return float(loss((output,), torch.tensor(label)[None].long(), stacked))


@pytest.mark.parametrize(("index", "far"), [(0, 0.9999), (1, -0.9999)])
def test_a_slice_without_a_surface_is_far_outside_or_deep_inside(index: int, far: float) -> None:
    """The surface is not everywhere there: that answer costs, the right one as little as it can."""
    label = np.full((10, 12), index)
    term = SignedDistanceTerm()
    stacked = stacked_map(term, label)
    assert stacked is not None
    right = surface_cost(torch.full((10, 12), far), label, stacked)
    assert right == pytest.approx(-1 / 3, abs=1e-3)
    everywhere = surface_cost(torch.zeros(10, 12), label, stacked)
    assert everywhere == pytest.approx(1 + 0.1 * 0.25, abs=1e-3)
    # Nothing is known of a surface there, so the boundary says nothing.
    assert cost(BoundaryTerm(), np.full((10, 12), 0.5), label) == 0


def test_what_lies_outside_the_image_has_no_distance() -> None:
    label = np.zeros((20, 40), int)
    label[6:13, 10:30] = 1
    stacked = stacked_map(SignedDistanceTerm(), label)
    assert stacked is not None
    rng = np.random.default_rng(0)
    found = torch.from_numpy(rng.uniform(-0.9, 0.9, (20, 40))).float()
    padded = torch.nn.functional.pad(stacked, (3, 0, 5, 0), value=OUTSIDE_IMAGE)
    wide = np.pad(label, ((5, 0), (3, 0)))
    expected = surface_cost(found, label, stacked)
    for beyond in (-0.9, 0.0, 0.9):
        around = torch.nn.functional.pad(found, (3, 0, 5, 0), value=beyond)
        assert surface_cost(around, wide, padded) == pytest.approx(expected, rel=1e-5)
    p = np.pad(np.full(label.shape, 0.3), ((5, 0), (3, 0)), constant_values=0.7)
    logits = torch.tensor(np.stack([np.log(1 - p), np.log(p)]))[None]
    loss = build_loss(Loss(terms=(BoundaryTerm(weight=1.0),)), ONE)
    share = label.size / wide.size
    assert float(loss((logits,), torch.tensor(wide)[None].long(), padded)) == pytest.approx(
        share * cost(BoundaryTerm(), np.full(label.shape, 0.3), label), rel=1e-4
    )


def test_further_channels_do_not_change_other_terms() -> None:
    label = np.zeros((20, 40), int)
    label[6:13, 10:30] = 1
    stacked, labels = stacked_map(SignedDistanceTerm(), label), torch.tensor(label)[None].long()
    torch.manual_seed(0)
    output = torch.randn(1, 3, 20, 40)
    with_head = Loss(terms=(CrossEntropyTerm(), SignedDistanceTerm(weight=0.0)))
    plainly = Loss(terms=(CrossEntropyTerm(),))
    assert float(build_loss(with_head, ONE)((output,), labels, stacked)) == float(
        build_loss(plainly, ONE)((output[:, :2],), labels)
    )


@pytest.mark.parametrize(
    "term", [CB, SegmentWeightsTerm(every=2), SignedDistanceTerm()], ids=lambda term: term.kind
)
@pytest.mark.parametrize(
    "targets", [plain(2, ignore=9), nested(ignore=9)], ids=["labels", "regions"]
)
def test_ignored_voxels_have_no_gradient_in_any_format(term: LossTerm, targets: Targets) -> None:
    label = np.zeros((20, 24), int)
    label[3:8, 2:22], label[12:14, 2:22] = 1, 2
    label[:, 18:] = targets.ignore_index
    stacked = stacked_map(term, np.where(label == targets.ignore_index, 0, label), targets)
    torch.manual_seed(0)
    count = len(targets.members) if isinstance(term, SignedDistanceTerm) else 0
    output = torch.randn(1, targets.outputs + count, 20, 24, requires_grad=True)
    loss = build_loss(Loss(terms=(term,)), targets)
    value = loss((output,), torch.tensor(label)[None], stacked)
    value.backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())
    assert float(output.grad[..., :12].abs().max()) > 0
    assert float(output.grad[..., 18:].abs().max()) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss((output.detach().bfloat16(),), torch.tensor(label)[None], stacked)
    assert reduced.dtype == torch.float32
    assert float(reduced) == pytest.approx(float(value.detach()), abs=0.03)


@pytest.mark.parametrize(
    "term",
    [CB, ClDiceTerm(iterations=2), SkeletonRecallTerm(widening=0), SegmentTerm()],
    ids=lambda term: term.kind,
)
def test_lines_cost_the_same_in_a_picture_and_in_a_volume(term: LossTerm) -> None:
    """A line one voxel wide is the same tube with and without empty slices around it."""
    label, p = np.zeros((20, 40), int), np.zeros((20, 40))
    label[10, 4:36] = 1
    p[10, 4:20] = 0.8
    volume, chance = np.zeros((11, 20, 40), int), np.zeros((11, 20, 40))
    volume[5], chance[5] = label, p
    assert cost(term, chance, volume) == pytest.approx(cost(term, p, label), abs=1e-3)
