"""Losses against formulas written out in numpy, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import plain

from selfseg.losses.build import build_loss, depth_weights
from selfseg.losses.terms import CrossEntropy, SoftDice
from selfseg.records.loss import CrossEntropyTerm, DiceTerm, Loss

PLAIN = Loss(terms=(DiceTerm(), CrossEntropyTerm()))


def numpy_dice(logits: np.ndarray, target: np.ndarray, *, batch: bool, smooth: float) -> float:
    """Soft Dice as nnU-Net defines it, label by label, background left out."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = shifted / shifted.sum(axis=1, keepdims=True)
    groups = [slice(None)] if batch else [slice(i, i + 1) for i in range(len(logits))]
    ratios = []
    for group in groups:
        for label in range(1, logits.shape[1]):
            p, g = probability[group, label], target[group] == label
            total = max(p.sum() + g.sum() + smooth, 1e-8)
            ratios.append((2 * (p * g).sum() + smooth) / total)
    return -float(np.mean(ratios))


@pytest.mark.parametrize("batch", [False, True])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 5))
def test_dice_equals_its_formula(batch: bool, seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, classes, 4, 5, 3)) * 3
    target = rng.integers(0, classes, (3, 4, 5, 3))
    ours = SoftDice(DiceTerm(batch=batch), plain(logits.shape[1] - 1))(
        torch.tensor(logits).float(), torch.tensor(target)
    )
    assert float(ours) == pytest.approx(
        numpy_dice(logits, target, batch=batch, smooth=1e-5), abs=1e-5
    )


def test_cross_entropy_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 3, (2, 6, 5))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.take_along_axis(log_p, target[:, None], axis=1).mean()
    ours = CrossEntropy(CrossEntropyTerm(), plain(2))(torch.tensor(logits), torch.tensor(target))
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_weighted_cross_entropy_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 3, (2, 6, 5))
    weights = np.array([0.2, 1.0, 5.0])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = np.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
    expected = -(weights[target] * chosen).sum() / weights[target].sum()
    term = CrossEntropy(CrossEntropyTerm(class_weights=(0.2, 1.0, 5.0)), plain(2))
    ours = term(torch.tensor(logits, dtype=torch.float32), torch.tensor(target))
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_perfect_prediction_gives_the_minimum() -> None:
    target = torch.randint(0, 3, (2, 8, 8, 8))
    logits = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 100
    assert float(build_loss(PLAIN, plain(logits.shape[1] - 1))((logits,), target)) == pytest.approx(
        -1.0, abs=1e-4
    )


def test_absent_label_without_prediction_counts_as_right() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.stack([torch.full((1, 4, 4), 50.0), torch.full((1, 4, 4), -50.0)], dim=1)
    assert float(SoftDice(DiceTerm(), plain(logits.shape[1] - 1))(logits, target)) == pytest.approx(
        -1.0, abs=1e-4
    )


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1.0,)), (2, (2 / 3, 1 / 3)), (3, (2 / 3, 1 / 3, 0.0))]
)
def test_depth_weights(count: int, expected: tuple[float, ...]) -> None:
    assert depth_weights(count, 0.5) == pytest.approx(expected)
    assert sum(depth_weights(6, 0.5)) == pytest.approx(1)
    assert depth_weights(6, 0.5)[-1] == 0


def test_coarse_outputs_are_judged_by_nearest_labels_and_the_coarsest_is_ignored() -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 2, (1, 8, 8))
    outputs = [torch.randn(1, 2, n, n) for n in (8, 4, 2)]
    loss = build_loss(Loss(terms=(CrossEntropyTerm(weight=2.0),)), plain(1))
    cross = torch.nn.functional.cross_entropy
    # nearest-exact takes the voxel under the coarse voxel's center: the second of each pair
    expected = 2 / 3 * cross(outputs[0], target) + 1 / 3 * cross(outputs[1], target[:, 1::2, 1::2])
    assert float(loss(outputs, target)) == pytest.approx(2 * float(expected), rel=1e-5)
    outputs[2] += 10
    assert float(loss(outputs, target)) == pytest.approx(2 * float(expected), rel=1e-5)


def test_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 3, 4, 4)).requires_grad_()
    target = torch.randint(0, 3, (2, 4, 4))
    loss = build_loss(PLAIN, plain(2))
    loss((logits,), target).backward()
    assert logits.grad is not None
    for index in [(0, 0, 1, 2), (1, 2, 3, 0), (0, 1, 0, 0)]:
        moved = [logits.detach().clone() for _ in range(2)]
        moved[0][index] += 1e-2
        moved[1][index] -= 1e-2
        slope = (loss((moved[0],), target) - loss((moved[1],), target)) / 2e-2
        assert float(logits.grad[index]) == pytest.approx(float(slope.detach()), abs=1e-4)


@pytest.mark.parametrize("batch", [False, True])
def test_gradients_in_double_precision(batch: bool) -> None:
    torch.manual_seed(0)
    loss = build_loss(Loss(terms=(DiceTerm(batch=batch), CrossEntropyTerm(weight=0.5))), plain(2))
    outputs = [torch.randn(2, 3, n, n, 4, dtype=torch.float64, requires_grad=True) for n in (4, 2)]
    target = torch.randint(0, 3, (2, 4, 4, 4))
    assert torch.autograd.gradcheck(lambda *o: loss(o, target), tuple(outputs))


def test_sums_are_float32_in_mixed_precision() -> None:
    target = torch.randint(0, 2, (1, 40, 40, 40))
    logits = torch.randn(1, 2, 40, 40, 40)
    exact = build_loss(PLAIN, plain(logits.shape[1] - 1))((logits,), target)
    reduced = build_loss(PLAIN, plain(1))((logits.bfloat16(),), target)
    assert reduced.dtype == torch.float32
    assert float(reduced) == pytest.approx(float(exact), abs=5e-3)
