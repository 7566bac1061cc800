"""Losses against formulas written out in numpy, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import nested, plain

from selfseg.losses.build import build_loss, depth_weights
from selfseg.losses.cross_entropy import BinaryCrossEntropy, CrossEntropy
from selfseg.losses.overlap import SoftDice
from selfseg.losses.view import View, member_masks
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import BinaryCrossEntropyTerm, CrossEntropyTerm, DiceTerm

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
    view = View(torch.tensor(logits).float(), torch.tensor(target), plain(classes - 1))
    ours = SoftDice(DiceTerm(batch=batch))(view)
    assert float(ours) == pytest.approx(
        numpy_dice(logits, target, batch=batch, smooth=1e-5), abs=1e-5
    )


def test_cross_entropy_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 3, (2, 6, 5))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.take_along_axis(log_p, target[:, None], axis=1).mean()
    ours = CrossEntropy(CrossEntropyTerm())(
        View(torch.tensor(logits), torch.tensor(target), plain(2))
    )
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_weighted_cross_entropy_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 3, (2, 6, 5))
    weights = np.array([0.2, 1.0, 5.0])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = np.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
    expected = -(weights[target] * chosen).sum() / weights[target].sum()
    term = CrossEntropy(CrossEntropyTerm(class_weights=(0.2, 1.0, 5.0)))
    ours = term(View(torch.tensor(logits).float(), torch.tensor(target), plain(2)))
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
    assert float(SoftDice(DiceTerm())(View(logits, target, plain(1)))) == pytest.approx(
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


def half(annotated: torch.Tensor, *, ignore: int) -> torch.Tensor:
    """Return a label map whose upper half is annotated and whose lower half is not."""
    return torch.cat([annotated, torch.full_like(annotated, ignore)], dim=1)


def upper(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs for the annotated half."""
    return [output[:, :, : output.shape[2] // 2] for output in outputs]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 5.0)])
def test_half_annotated_equals_the_annotated_half(
    batch: bool, weights: tuple[float, ...] | None
) -> None:
    torch.manual_seed(0)
    options = Loss(terms=(DiceTerm(batch=batch), CrossEntropyTerm(class_weights=weights)))
    outputs = [torch.randn(2, 3, n, n, 4) for n in (16, 8, 4)]
    target = torch.randint(0, 3, (2, 8, 16, 4))
    expected = build_loss(options, plain(2))(upper(outputs), target)
    found = build_loss(options, plain(2, ignore=9))(outputs, half(target, ignore=3))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("batch", [False, True])
def test_half_annotated_regions_equal_the_annotated_half(batch: bool) -> None:
    torch.manual_seed(0)
    options = Loss(terms=(DiceTerm(batch=batch), BinaryCrossEntropyTerm()))
    outputs = [torch.randn(2, 3, n, n, 4) for n in (16, 8, 4)]
    target = torch.randint(0, 4, (2, 8, 16, 4))
    expected = build_loss(options, nested())(upper(outputs), target)
    found = build_loss(options, nested(ignore=9))(outputs, half(target, ignore=4))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("targets", [plain(2, ignore=9), nested(ignore=9)])
def test_ignored_voxels_have_no_gradient_and_alone_no_loss(targets: Targets) -> None:
    torch.manual_seed(0)
    voxelwise = BinaryCrossEntropyTerm() if targets.regions else CrossEntropyTerm()
    assert targets.ignore_index is not None
    for batch in (False, True):
        loss = build_loss(Loss(terms=(DiceTerm(batch=batch), voxelwise)), targets)
        logits = torch.randn(2, 3, 6, 5, 4, requires_grad=True)
        target = torch.randint(0, 3, (2, 6, 5, 4))
        ignored = torch.rand(2, 6, 5, 4) < 0.5
        target[ignored] = targets.ignore_index
        loss([logits], target).backward()
        assert logits.grad is not None
        gradient = logits.grad.abs().amax(dim=1)
        assert gradient[ignored].max() == 0
        assert gradient[~ignored].min() > 0
        nothing = loss([logits], torch.full_like(target, targets.ignore_index))
        assert float(nothing.detach()) == 0
        nothing.backward()
        assert bool(logits.grad.isfinite().all())


def test_unannotated_sample_does_not_dilute_the_dice_of_others() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    target[1] = 3
    term, targets = SoftDice(DiceTerm()), plain(2, ignore=9)
    alone = term(View(logits[:1], target[:1], targets))
    both = term(View(logits, target, targets))
    assert float(both) == pytest.approx(float(alone), rel=1e-6)


def test_region_losses_equal_their_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.integers(0, 5, (2, 6, 5))  # 4: ignored
    masks = np.stack([np.isin(target, m) for m in ((1, 2, 3), (2, 3), (3,))], axis=1)
    p, known = 1 / (1 + np.exp(-logits)), np.broadcast_to((target != 4)[:, None], masks.shape)
    cross = -np.where(masks, np.log(p), np.log(1 - p))[known].mean()
    both, total = ((p * masks * known).sum((2, 3)), ((p + masks) * known).sum((2, 3)))
    dice = -((2 * both + 1e-5) / (total + 1e-5)).mean()
    view = View(torch.tensor(logits), torch.tensor(target), nested(ignore=9))
    assert float(BinaryCrossEntropy()(view)) == pytest.approx(cross, rel=1e-9)
    assert float(SoftDice(DiceTerm())(view)) == pytest.approx(dice, rel=1e-9)


def test_disjoint_regions_of_one_label_have_the_masks_of_labels() -> None:
    target = torch.randint(0, 3, (2, 50))
    assert torch.equal(
        member_masks(target, ((1,), (2,))), torch.stack([target == 1, target == 2], dim=1)
    )
    assert torch.equal(member_masks(target, ((1, 2),))[:, 0], target > 0)


def test_region_loss_in_mixed_precision_is_that_of_float32() -> None:
    torch.manual_seed(0)
    loss = build_loss(Loss(terms=(DiceTerm(), BinaryCrossEntropyTerm())), nested(ignore=9))
    logits, target = torch.randn(1, 3, 40, 40, 40), torch.randint(0, 5, (1, 40, 40, 40))
    exact = loss([logits], target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss([logits.bfloat16()], target)
    assert reduced.dtype == torch.float32
    assert float(reduced) == pytest.approx(float(exact), abs=5e-3)


@pytest.mark.parametrize("targets", [plain(2, ignore=9), nested(ignore=9)])
def test_gradients_of_masked_losses_in_double_precision(targets: Targets) -> None:
    torch.manual_seed(0)
    voxelwise = BinaryCrossEntropyTerm() if targets.regions else CrossEntropyTerm()
    loss = build_loss(Loss(terms=(DiceTerm(), voxelwise)), targets)
    outputs = [torch.randn(2, 3, n, n, 4, dtype=torch.float64, requires_grad=True) for n in (4, 2)]
    target = torch.randint(0, len(targets.labels) + 2, (2, 4, 4, 4))
    assert torch.autograd.gradcheck(lambda *o: loss(o, target), tuple(outputs))
