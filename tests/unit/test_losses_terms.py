"""The terms beyond Dice and cross-entropy: formulas, limits, regions, ignored voxels, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from targets import nested, plain

from selfseg.losses.build import build_loss, scheduled_weight
from selfseg.losses.skeleton import soft_skeleton
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    GeneralizedDiceTerm,
    SmoothnessTerm,
    TopKTerm,
    TverskyTerm,
)

SMOOTHNESS = SmoothnessTerm(weight=1.0, axis_weights=(1.0, 1.0, 1.0))
EVERY: tuple[LossTerm, ...] = (
    TverskyTerm(),
    TverskyTerm(batch=True, gamma=0.75),
    GeneralizedDiceTerm(),
    GeneralizedDiceTerm(batch=True),
    AdaptiveCrossEntropyTerm(),
    AdaptiveCrossEntropyTerm(gamma=2.0),
    TopKTerm(share=0.25),
    FocalTerm(),
    FocalTerm(gamma=0.5),
    SMOOTHNESS,
    ClDiceTerm(iterations=2),
)
every_term = pytest.mark.parametrize("term", EVERY, ids=lambda term: term.kind)
every_target = pytest.mark.parametrize("targets", [plain(2, ignore=9), nested(ignore=9)])


def value(
    term: LossTerm, logits: torch.Tensor, target: torch.Tensor, targets: Targets
) -> torch.Tensor:
    cost: torch.Tensor = build_loss(Loss(terms=(term,)), targets)((logits,), target)
    return cost


def certain(target: torch.Tensor, classes: int, sure: float = 60.0) -> torch.Tensor:
    """Return logits that say the target with (almost) probability 1."""
    return torch.nn.functional.one_hot(target, classes).movedim(-1, 1).double() * sure


@every_term
def test_the_truth_costs_nothing(term: LossTerm) -> None:
    target = torch.zeros(2, 12, 12, 12, dtype=torch.long)
    target[:, 3:9, 2:8, 4:10] = 1
    target[0, 5:7, 5:7, 5:7] = 2
    assert float(value(term, certain(target, 3), target, plain(2))) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("term", [t for t in EVERY if t.kind != "cl_dice"])
def test_errors_cost_more_than_the_truth_by_more_the_more_there_are(term: LossTerm) -> None:
    target = torch.zeros(1, 12, 12, 12, dtype=torch.long)
    target[:, 2:10, 2:10, 2:10] = 1
    small, large = target.clone(), target.clone()
    small[:, 2:10, 2:10, 4:6] = 0
    large[:, 2:10, 2:10, 3:10] = 0
    costs = [float(value(term, certain(t, 2, 4.0), target, plain(1))) for t in (target, small)]
    assert costs[0] < costs[1]
    # the worst voxels and pairs across borders do not grow with every error
    if not isinstance(term, SmoothnessTerm | TopKTerm):
        assert costs[1] < float(value(term, certain(large, 2, 4.0), target, plain(1)))


@pytest.mark.parametrize("term", [t for t in EVERY if t.kind != "adaptive_cross_entropy"])
@every_target
def test_gradients_in_double_precision(term: LossTerm, targets: Targets) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, len(targets.labels) + 2, (1, 3, 4, 3))
    # max-pools, ranks and hinges have kinks; random numbers stay off them
    assert torch.autograd.gradcheck(lambda given: value(term, given, target, targets), (logits,))


def test_the_weights_of_adaptive_cross_entropy_have_no_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (1, 6, 5))
    value(AdaptiveCrossEntropyTerm(alpha=3.0), logits, target, plain(2)).backward()  # type: ignore[no-untyped-call]
    p = logits.detach().softmax(1)
    truth = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    weight = 1 + 3 * (1 - (p * truth).sum(1, keepdim=True))
    assert logits.grad is not None
    assert torch.allclose(logits.grad, weight * (p - truth) / weight.sum())


@every_term
@every_target
def test_ignored_voxels_have_no_gradient_and_alone_no_loss(
    term: LossTerm, targets: Targets
) -> None:
    if isinstance(term, ClDiceTerm):
        pytest.skip("its skeletons see the edge of what is annotated")
    torch.manual_seed(0)
    assert targets.ignore_index is not None
    logits = torch.randn(2, 3, 6, 5, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 5, 4))
    ignored = torch.rand(2, 6, 5, 4) < 0.5
    target[ignored] = targets.ignore_index
    value(term, logits, target, targets).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().amax(dim=1)[ignored].max() == 0
    nothing = value(term, logits, torch.full_like(target, targets.ignore_index), targets)
    assert float(nothing.detach()) == 0
    nothing.backward()  # type: ignore[no-untyped-call]
    assert bool(logits.grad.isfinite().all())


@every_term
def test_certain_and_wrong_gives_a_finite_gradient(term: LossTerm) -> None:
    target = torch.randint(0, 2, (1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = certain(1 - target, 2, 200.0).float().requires_grad_()
    value(term, logits, target, plain(1)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@every_term
def test_mixed_precision_is_float32(term: LossTerm) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 20, 20, 20), torch.randint(0, 3, (1, 20, 20, 20))
    exact = value(term, logits, target, plain(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = value(term, logits.bfloat16(), target, plain(2))
    assert reduced.dtype == torch.float32
    assert float(reduced) == pytest.approx(float(exact), abs=2e-2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0.1, 2), gamma=st.floats(0.5, 3))
def test_voxelwise_terms_equal_their_formulas(seed: int, alpha: float, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=(2, 3, 6, 5)) * 2, rng.integers(0, 3, (2, 6, 5))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    t = np.take_along_axis(p, target[:, None], axis=1)[:, 0]
    b = np.array([0.5, 1.0, 4.0])
    w = b[target] * (1 + alpha * (1 - t) ** gamma)
    expected: dict[LossTerm, float] = {
        AdaptiveCrossEntropyTerm(alpha=alpha, gamma=gamma, class_weights=(0.5, 1.0, 4.0)): -(
            w * np.log(t)
        ).sum()
        / w.sum(),
        FocalTerm(gamma=gamma): -((1 - t) ** gamma * np.log(t)).mean(),
        TopKTerm(share=0.2): np.sort(-np.log(t).ravel())[-12:].mean(),
    }
    for term, number in expected.items():
        found = value(term, torch.tensor(logits), torch.tensor(target), plain(2))
        assert float(found) == pytest.approx(number, rel=1e-5)


def test_top_k_of_what_is_annotated_equals_top_k_of_that_part() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 10), torch.randint(0, 3, (1, 8, 10))
    part = value(TopKTerm(), logits[:, :, :4], target[:, :4], plain(2))
    target[:, 4:] = 3
    whole = value(TopKTerm(), logits, target, plain(2, ignore=9))
    assert float(whole) == pytest.approx(float(part), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0.1, 0.9), gamma=st.floats(0.5, 2))
def test_overlap_terms_equal_their_formulas(seed: int, alpha: float, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 3, (2, 6, 5))
    target[0][target[0] == 2] = 0  # a label that one sample lacks
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[:, 1:]
    g = np.stack([target == 1, target == 2], axis=1)
    both, fp, fn = ((part).sum((2, 3)) for part in (p * g, p * ~g, (1 - p) * g))
    index = (both + 1e-5) / (both + alpha * fp + (1 - alpha) * fn + 1e-5)
    tversky = ((1 - index) ** gamma).mean()
    size = g.sum((2, 3)).astype(float)
    weight = np.where(size > 0, 1 / np.maximum(size, 1) ** 2, 0)
    weight = np.where(size > 0, weight, weight.max(1, keepdims=True))
    dice = 1 - 2 * (weight * both).sum(1) / (weight * (p.sum((2, 3)) + size)).sum(1)
    term = TverskyTerm(alpha=alpha, beta=1 - alpha, gamma=gamma)
    given_ = torch.tensor(logits), torch.tensor(target), plain(2)
    assert float(value(term, *given_)) == pytest.approx(tversky, rel=1e-3)
    assert float(value(GeneralizedDiceTerm(), *given_)) == pytest.approx(dice.mean(), rel=1e-3)


def test_tversky_with_equal_weights_is_dice() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 9, 9), torch.randint(0, 3, (2, 9, 9))
    half = value(TverskyTerm(alpha=0.5, beta=0.5, smooth=0), logits, target, plain(2))
    dice = value(DiceTerm(smooth=0), logits, target, plain(2))
    assert float(half) == pytest.approx(1 + float(dice), rel=1e-5)


def test_adaptive_cross_entropy_without_its_factor_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 9, 9), torch.randint(0, 3, (2, 9, 9))
    plainly = value(CrossEntropyTerm(), logits, target, plain(2))
    adapted = value(AdaptiveCrossEntropyTerm(alpha=0), logits, target, plain(2))
    assert float(adapted) == pytest.approx(float(plainly), rel=1e-6)


def test_smoothness_equals_its_formula_and_weighs_axes() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(1, 3, 4, 5, 6)), rng.integers(0, 3, (1, 4, 5, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weights, same, different = (0.04, 1.0, 1.0), [], []
    for axis, u in enumerate(weights):
        d = 0.5 * np.abs(np.diff(p, axis=axis + 2)).sum(1)
        alike = np.diff(target, axis=axis + 1) == 0
        same.append(u * d[alike] ** 2)
        different.append(u * (1 - d[~alike]) ** 2)
    expected = np.concatenate(same).mean() + 2 * np.concatenate(different).mean()
    term = SmoothnessTerm(weight=1.0, axis_weights=weights, kappa=2.0)
    found = value(term, torch.tensor(logits), torch.tensor(target), plain(2))
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 40)])
def test_soft_skeleton_of_a_bar_is_its_center_line(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(1, 1, *shape)
    middle = mask[0, 0]
    for axis in range(len(shape) - 1):
        middle = middle.narrow(axis, 18, 5)
    middle[..., 5:35] = 1
    skeleton = soft_skeleton(mask, 4)[0, 0]
    line = skeleton[(20,) * (len(shape) - 1)]
    assert bool((line[8:32] == 1).all())
    assert float(skeleton.sum()) < 0.3 * float(mask.sum())
    assert bool((skeleton <= mask[0, 0]).all())


def published_skeleton(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Return the soft skeleton of one mask (*D), by SciPy's gray morphology."""
    cross, block = ndimage.generate_binary_structure(mask.ndim, 1), np.ones((3,) * mask.ndim)

    def rest(soft: np.ndarray) -> np.ndarray:
        eroded = ndimage.grey_erosion(soft, footprint=cross, mode="constant", cval=1.0)
        opened = ndimage.grey_dilation(eroded, footprint=block, mode="constant", cval=0.0)
        return np.asarray(np.maximum(soft - opened, 0))

    skeleton = rest(mask)
    for _ in range(iterations):
        mask = ndimage.grey_erosion(mask, footprint=cross, mode="constant", cval=1.0)
        found = rest(mask)
        skeleton = skeleton + np.maximum(found - skeleton * found, 0)
    return skeleton


@pytest.mark.parametrize("shape", [(2, 14, 15), (2, 9, 10, 8)])
def test_soft_cl_dice_equals_its_formula(shape: tuple[int, ...]) -> None:
    """Two samples, two labels: sums over space and batch, a mean over labels."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(shape[0], 3, *shape[1:])), np.zeros(shape, int)
    target[:, 2:7, 1:13], target[1, 8:, 3:6] = 1, 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    costs = []
    for label in (1, 2):
        precision, recall, lines, true_lines = 0.0, 0.0, 0.0, 0.0
        for soft, true in zip(p[:, label], (target == label).astype(float), strict=True):
            line, true_line = published_skeleton(soft, 3), published_skeleton(true, 3)
            precision, lines = precision + (line * true).sum(), lines + line.sum()
            recall, true_lines = recall + (true_line * soft).sum(), true_lines + true_line.sum()
        shares = (precision + 1) / (lines + 1), (recall + 1) / (true_lines + 1)
        costs.append(1 - 2 * shares[0] * shares[1] / sum(shares))
    found = value(ClDiceTerm(iterations=3), torch.tensor(logits), torch.tensor(target), plain(2))
    assert float(found) == pytest.approx(np.mean(costs), rel=1e-6)


def test_a_gap_costs_more_in_cl_dice_than_as_many_voxels_at_the_rim() -> None:
    target = torch.zeros(1, 40, 40, dtype=torch.long)
    target[:, 18:23, 2:38] = 1
    gap, rim = target.clone(), target.clone()
    gap[:, 18:23, 18:22] = 0  # 20 pixels in one piece
    rim[:, 18, 3:23] = 0  # 20 pixels along a wall
    term = ClDiceTerm(iterations=4)
    costs = [float(value(term, certain(t, 2), target, plain(1))) for t in (gap, rim)]
    assert costs[0] > 3 * costs[1]


def test_terms_for_thin_structures_see_the_full_resolution_only_and_wholly() -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 2, (1, 16, 16))
    outputs = [torch.randn(1, 2, n, n) for n in (16, 8, 4)]
    loss = build_loss(Loss(terms=(ClDiceTerm(iterations=2),)), plain(1))
    full = value(ClDiceTerm(iterations=2), outputs[0], target, plain(1))
    assert float(loss(outputs, target)) == pytest.approx(float(full), rel=1e-6)


def test_schedules() -> None:
    term = FocalTerm(weight=2.0, start=0.2, ramp=0.2)
    weights = [scheduled_weight(term, progress) for progress in (0.0, 0.19, 0.3, 0.4, 1.0)]
    assert weights == pytest.approx([0, 0, 1, 2, 2])
    assert scheduled_weight(FocalTerm(weight=2.0), 0.0) == 2
    loss = build_loss(Loss(terms=(CrossEntropyTerm(), term)), plain(1))
    logits, target = torch.randn(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6))
    early = float(loss((logits,), target))
    loss.progress = 1.0
    late = float(loss((logits,), target))
    focal = float(value(FocalTerm(), logits, target, plain(1)))
    assert late - early == pytest.approx(2 * focal, rel=1e-4)
