"""Terms that need maps of the reference, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from targets import plain

from selfseg.losses.build import build_loss
from selfseg.losses.maps import DISTANCE_PARTS
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_maps import DistanceMap, SegmentsMap, needed_maps
from selfseg.records.loss_terms import (
    BlobDiceTerm,
    BoundaryTerm,
    ClDiceTerm,
    DiceTerm,
    SegmentTerm,
    SkeletonRecallTerm,
)

ONE = plain(1)
SIZE = 40


def value(term: LossTerm, p: np.ndarray, target: np.ndarray, maps: np.ndarray) -> float:
    """Return a term's cost of foreground probabilities p (*D), at weight 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    logits = torch.tensor(np.stack([np.log(1 - p), np.log(p)]))[None]
    loss = build_loss(Loss(terms=(term.model_copy(update={"weight": 1.0}),)), ONE)
    stacked = torch.tensor(maps[None, None].astype(np.int16))
    return float(loss((logits,), torch.tensor(target)[None].long(), stacked))


def bars() -> tuple[np.ndarray, np.ndarray]:
    """Return a picture with a bar of 3 × 8 and one of 1 × 8 pixels, and their segments."""
    target, segments = np.zeros((2, SIZE, SIZE), int)
    target[10:13, 10:18] = 1
    target[25, 10:18] = 1
    segments[8:15, 8:20], segments[23:28, 8:20] = 1, 2
    segments[11, 10:18], segments[25, 10:18] = -1, -2
    return target, segments


def test_needed_maps_are_named_once() -> None:
    loss = Loss(terms=(DiceTerm(), SegmentTerm(), BoundaryTerm(), BoundaryTerm()))
    assert needed_maps(loss) == (DistanceMap(), SegmentsMap())
    assert needed_maps(Loss(terms=(DiceTerm(), ClDiceTerm(iterations=2)))) == ()


def test_the_true_segments_cost_nothing() -> None:
    target, segments = bars()
    assert value(SegmentTerm(), target.astype(float), target, segments) == pytest.approx(
        0, abs=1e-6
    )


def test_segments_of_wrong_thickness_cost_as_the_formula_says() -> None:
    target, segments = bars()
    thin = target.astype(float)
    thin[10, 10:18] = 0  # the thick bar, 3 wide, is found 2 wide: T~/T = 2/3
    weights = np.array([3.0, 1.0]) ** -0.5
    expected = weights[0] * 0.5 * (1 / 3) ** 2 / weights.sum()
    assert value(SegmentTerm(), thin, target, segments) == pytest.approx(expected, rel=1e-4)
    gone = target.astype(float)
    gone[25] = 0  # the thin bar is missed: huber(−1) = 0.5·(1 − 0.25), and no center line found
    expected = weights[1] * (0.5 * 0.75 + 1) / weights.sum()
    assert value(SegmentTerm(), gone, target, segments) == pytest.approx(expected, rel=1e-4)


def test_what_is_predicted_far_from_all_segments_costs() -> None:
    target, segments = bars()
    stray = target.astype(float)
    stray[35, 20:30] = 0.5
    far = int(((segments == 0) & (target == 0)).sum())
    expected = 10 * 0.25 / far
    assert value(SegmentTerm(), stray, target, segments) == pytest.approx(expected, rel=1e-4)


def test_without_segments_only_stray_voxels_cost() -> None:
    nothing = np.zeros((SIZE, SIZE), int)
    assert value(SegmentTerm(), np.zeros((SIZE, SIZE)), nothing, nothing) < 1e-9
    assert value(SegmentTerm(), np.full((SIZE, SIZE), 0.5), nothing, nothing) == pytest.approx(0.25)


def test_skeleton_recall_counts_the_tube_only() -> None:
    target, segments = bars()
    tube = segments < 0
    half = np.where(np.arange(SIZE) < 14, target, 0).astype(float)
    term = SkeletonRecallTerm(smooth=0)
    assert value(term, target.astype(float), target, tube) == pytest.approx(-1)
    assert value(term, half, target, tube) == pytest.approx(-0.5, rel=1e-4)
    assert value(term, np.ones((SIZE, SIZE)), target, tube) == pytest.approx(-1)


def test_blob_dice_is_the_mean_dice_of_components_without_each_other() -> None:
    target, segments = bars()
    ids = np.where(target, np.abs(segments), 0)
    rng = np.random.default_rng(0)
    p = rng.random((SIZE, SIZE))
    ratios = []
    for blob in (1, 2):
        seen = (ids == 0) | (ids == blob)
        mask = (ids == blob).astype(float)
        ratios.append(2 * (p * mask).sum() / ((p * seen).sum() + mask.sum()))
    term = BlobDiceTerm(smooth=0)
    assert value(term, p, target, ids) == pytest.approx(-np.mean(ratios), rel=1e-4)
    one = np.where(ids == 1, 0, target).astype(float)
    assert value(term, one, target, ids) == pytest.approx(-0.5, abs=1e-4)


def test_boundary_is_the_mean_of_probability_times_distance() -> None:
    target, _ = bars()
    rng = np.random.default_rng(0)
    p, distance = rng.random((SIZE, SIZE)), rng.integers(-500, 500, (SIZE, SIZE))
    expected = (p * distance / DISTANCE_PARTS).mean()
    assert value(BoundaryTerm(), p, target, distance) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "term",
    [SegmentTerm(), SkeletonRecallTerm(), BlobDiceTerm(), BoundaryTerm()],
    ids=lambda term: term.kind,
)
def test_gradients_in_double_precision_and_of_ignored_voxels(term: LossTerm) -> None:
    target, segments = bars()
    window = (slice(8, 16), slice(8, 16))
    targets = plain(1, ignore=9)
    labels = torch.tensor(target[window])[None]
    labels[0, :2] = 2
    maps = {"segments": segments, "distance": segments * 64, "tube": segments < 0}
    stacked = maps.get(needed_maps(Loss(terms=(term,)))[0].kind, np.abs(segments) * target)[window]
    stacked = np.where(labels[0].numpy() == 2, 0, stacked)
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    loss = build_loss(Loss(terms=(term,)), targets)
    given = torch.tensor(stacked[None, None].astype(np.int16))
    assert torch.autograd.gradcheck(lambda x: loss((x,), labels, given), (logits,))
    loss((logits,), labels, given).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, :, :2].abs().max()) == 0


def test_a_map_that_is_missing_is_told() -> None:
    loss = build_loss(Loss(terms=(BoundaryTerm(),)), ONE)
    with pytest.raises(ValueError, match="needs a map"):
        loss((torch.zeros(1, 2, 4, 4),), torch.zeros(1, 4, 4, dtype=torch.long))


def two_labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities (3, *D) of a random picture, its labels, and its segments (2, *D)."""
    target, segments = bars()
    labels = np.where(segments[:] == 0, 0, np.abs(segments)) * target
    logits = np.random.default_rng(1).normal(size=(3, SIZE, SIZE))
    parts = np.stack([np.where(np.abs(segments) == number, segments, 0) for number in (1, 2)])
    return logits, labels, parts


@pytest.mark.parametrize(
    "term",
    [SegmentTerm(), SkeletonRecallTerm(), BoundaryTerm(), ClDiceTerm(iterations=2)],
    ids=lambda term: term.kind,
)
def test_a_term_of_one_label_is_what_it_is_without_the_other(term: LossTerm) -> None:
    logits, labels, parts = two_labels()
    named = plain(2)
    stacked = torch.tensor(parts[None].astype(np.int16))
    scores, given = torch.tensor(logits)[None], torch.tensor(labels)[None].long()

    def cost(names: tuple[str, ...] | None) -> float:
        some = term.model_copy(update={"labels": names})
        return float(build_loss(Loss(terms=(some,)), named)((scores,), given, stacked))

    first, second, both = cost((named.names[0],)), cost((named.names[1],)), cost(None)
    assert first != pytest.approx(second, rel=1e-3)
    assert cost(named.names) == pytest.approx(both, rel=1e-6)
    if not isinstance(term, SegmentTerm):  # which is no plain mean over labels
        assert (first + second) / 2 == pytest.approx(both, rel=1e-5)


def test_maps_follow_what_terms_ask_for_but_not_their_weight() -> None:
    loss = Loss(
        terms=(
            SegmentTerm(labels=("a",), weight=2.0, start=0.5, huber_delta=1.0),
            SegmentTerm(labels=("b",), ramp=0.1),
            BoundaryTerm(labels=("b",)),
            BoundaryTerm(),
        )
    )
    assert needed_maps(loss) == (DistanceMap(), SegmentsMap(labels=("a", "b")))
    other = Loss(terms=(SegmentTerm(), SegmentTerm(length=12)))
    with pytest.raises(ValueError, match="different maps of kind 'segments': length 8 and 12"):
        needed_maps(other)


def test_the_limit_of_the_square_of_errors_of_thickness_is_an_option() -> None:
    target, segments = bars()
    gone = target.astype(float)
    gone[25] = 0
    weights = np.array([3.0, 1.0]) ** -0.5
    expected = weights[1] * (0.5 + 1) / weights.sum()  # huber(−1) with a limit of 1
    found = value(SegmentTerm(huber_delta=1.0), gone, target, segments)
    assert found == pytest.approx(expected, rel=1e-4)
