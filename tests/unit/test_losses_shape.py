"""The shape constraint: nothing for the truth, finite gradients, whole organs only, its weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from shapedata import ellipsoid, linear_model, untrained_autoencoder
from targets import nested, plain
from torch import Tensor

from selfseg.losses.build import DeeplySupervisedSum, build_loss
from selfseg.losses.view import View
from selfseg.networks.shape_autoencoder import ShapeModel
from selfseg.networks.shape_grid import ShapeBox, bounds, sample_box
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import (
    BinaryCrossEntropyTerm,
    CrossEntropyTerm,
    DiceTerm,
    ShapeCodeTerm,
)

SHAPE = (20, 22, 24)
TERM = ShapeCodeTerm(labels=("label 1",), jitter=0.0, start=0.0, ramp=0.0)
MODELS: Mapping[str, ShapeModel] = {
    "linear": linear_model(),
    "autoencoder": untrained_autoencoder(),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def organ(*, shift: tuple[int, ...] = (0, 0, 0), samples: int = 1) -> Tensor:
    middle = tuple(n / 2 + s for n, s in zip(SHAPE, shift, strict=True))
    mask = ellipsoid(SHAPE, middle, (6, 7, 8))
    return torch.from_numpy(mask).long().expand(samples, *SHAPE).clone()


def certain(target: Tensor, sure: float = 60.0) -> Tensor:
    return torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float() * sure


def term_of(
    model: ShapeModel, term: ShapeCodeTerm = TERM, targets: Targets | None = None
) -> torch.nn.Module:
    targets = targets or plain(1)
    return build_loss(Loss(terms=(term,)), targets, dict.fromkeys(targets.names, model)).terms[0]


def cost(
    model: ShapeModel, logits: Tensor, target: Tensor, targets: Targets | None = None
) -> Tensor:
    targets = targets or plain(1)
    value: Tensor = term_of(model, targets=targets)(View(logits, target, targets))
    return value


@every_model
def test_shape_code_equals_its_formula(model: ShapeModel) -> None:
    """Mean squared difference of the codes, and a quarter of that of every feature map."""
    target, logits = organ(), certain(organ(shift=(1, 0, 2)), 3.0)
    low, high = bounds(target[0] == 1).tolist()
    box = ShapeBox(tuple(map(float, low)), tuple(map(float, high))).grown(model.margin)
    found, true = (
        model.encode(sample_box(mask[None].float(), box, model.grid)[None])
        for mask in (logits.softmax(1)[0, 1], target[0])
    )
    assert found.code.shape[1] > 1
    code = float(((found.code - true.code) ** 2).sum()) / found.code.shape[1]
    pairs = zip(found.features, true.features, strict=True)
    maps = sum(float(((a - b) ** 2).sum()) / a.numel() for a, b in pairs)
    assert code > 0
    assert (maps > 0) == (len(found.features) > 0)
    assert float(cost(model, logits, target)) == pytest.approx(code + 0.25 * maps, rel=1e-4)


@every_model
def test_the_truth_costs_nothing_and_moving_the_organ_costs_more_and_more(
    model: ShapeModel,
) -> None:
    target = organ()
    costs = [
        float(cost(model, certain(organ(shift=(0, move, 0))), target)) for move in (0, 1, 2, 3)
    ]
    assert costs[0] == pytest.approx(0, abs=1e-9)
    assert costs == sorted(costs)
    assert costs[1] > 1e-4


@every_model
@pytest.mark.parametrize("sure", [0.0, 2.0, 1000.0, -1000.0])
def test_gradients_are_finite_also_where_probabilities_are_0_or_1(
    model: ShapeModel, sure: float
) -> None:
    logits = certain(organ(shift=(2, 0, 0)), sure).requires_grad_()
    value = cost(model, logits, organ())
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    if abs(sure) < 3:
        assert float(logits.grad.abs().sum()) > 0


@every_model
def test_gradient_is_that_of_finite_differences(model: ShapeModel) -> None:
    target, rng = organ(), np.random.default_rng(0)
    logits = certain(organ(shift=(1, 1, 0)), 2.0).requires_grad_()
    value = cost(model, logits, target)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    direction = torch.from_numpy(rng.normal(size=logits.shape)).float()
    direction += logits.grad / logits.grad.norm() * direction.norm()
    step = 2e-3
    with torch.no_grad():
        ahead, behind = (cost(model, logits + s * direction, target) for s in (step, -step))
    expected = float((logits.grad * direction).sum())
    assert float(ahead - behind) / (2 * step) == pytest.approx(expected, rel=0.03)


@every_model
@pytest.mark.parametrize("shift", [(-10, 0, 0), (0, 11, 0), (0, 0, 12)])
def test_an_organ_that_touches_the_border_does_not_count(
    model: ShapeModel, shift: tuple[int, ...]
) -> None:
    target = organ(shift=shift)
    assert target.any()
    logits = torch.zeros(1, 2, *SHAPE, requires_grad=True)
    value = cost(model, logits, target)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0
    assert cost(model, logits, torch.zeros_like(target)).item() == 0


def test_only_samples_with_a_whole_organ_count() -> None:
    model = MODELS["linear"]
    whole, cut = organ(), organ(shift=(-10, 0, 0))
    guess = certain(organ(shift=(1, 0, 0)), 4.0)
    alone = cost(model, guess, whole)
    both = cost(model, guess.repeat(2, 1, 1, 1, 1), torch.cat([whole, cut]))
    assert float(both) == pytest.approx(float(alone), rel=1e-5)
    assert float(alone) > 0


def test_an_organ_that_is_not_annotated_all_around_does_not_count() -> None:
    model, targets = MODELS["linear"], plain(1, ignore=9)
    logits = certain(organ(shift=(1, 0, 0)), 4.0)
    far, near = organ(), organ()
    far[:, :, 0, 0] = 2
    near[:, 10, 11] = 2
    assert float(cost(model, logits, far, targets)) > 0
    assert float(cost(model, logits, near, targets)) == 0


def test_regions_are_compared_by_their_own_probabilities() -> None:
    targets, model = nested(), MODELS["linear"]
    target = organ() * 2  # in whole and core, not in center
    logits = torch.full((1, 3, *SHAPE), -60.0)
    logits[:, 1] = certain(organ())[:, 1] - 30
    loss = build_loss(
        Loss(terms=(TERM.model_copy(update={"labels": ("core",)}),)), targets, {"core": model}
    )
    term = loss.terms[0]
    assert float(term(View(logits, target, targets))) == pytest.approx(0, abs=1e-6)
    moved = torch.roll(logits, 2, dims=3)
    assert float(term(View(moved, target, targets))) > 1e-3
    other = torch.cat([-logits[:, :1], moved[:, 1:2] * 0 + logits[:, 1:2], logits[:, 2:]], dim=1)
    assert float(term(View(other, target, targets))) == pytest.approx(0, abs=1e-6)


def test_shape_models_compute_in_float32_under_autocast() -> None:
    model, target = MODELS["autoencoder"], organ()
    logits = certain(organ(shift=(1, 0, 0)), 4.0)
    expected = cost(model, logits, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = cost(model, logits, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_the_box_is_jittered_in_training_only() -> None:
    term = term_of(MODELS["linear"], TERM.model_copy(update={"jitter": 0.05}))
    view = View(certain(organ(shift=(1, 0, 0)), 4.0), organ(), plain(1))
    with torch.no_grad():
        assert float(term(view)) == float(term(view))
    values = {float(term(view)) for _ in range(4)}
    assert len(values) == 4


def weighed(term: ShapeCodeTerm, *, regions: bool = False) -> DeeplySupervisedSum:
    other = BinaryCrossEntropyTerm() if regions else CrossEntropyTerm()
    return build_loss(
        Loss(terms=(DiceTerm(), other, term)), plain(1), {"label 1": MODELS["linear"]}
    )


def gradient(loss: torch.nn.Module, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(outputs, target), outputs[0])
    return found


def test_its_gradient_is_a_tenth_of_that_of_the_others() -> None:
    logits = certain(organ(shift=(2, 0, 0)), 1.0).requires_grad_()
    outputs, target = (logits, logits[..., ::2, ::2, ::2]), organ()
    loss = weighed(TERM)
    whole = gradient(loss, outputs, target)
    rest = gradient(build_loss(Loss(terms=loss.options.terms[:2]), plain(1)), outputs, target)
    own = whole - rest
    assert float(own.norm()) == pytest.approx(0.1 * float(rest.norm()), rel=0.01)


def test_its_weight_has_a_limit_and_is_measured_again_after_some_steps() -> None:
    target = organ()
    loss = weighed(TERM.model_copy(update={"refresh": 3, "average": 0.0, "most": 1e-6}))
    gradient(loss, (certain(organ(shift=(2, 0, 0)), 1.0).requires_grad_(),), target)
    assert float(loss.memory["term_2"][2]) == 1e-6
    loss = weighed(TERM.model_copy(update={"refresh": 3, "average": 0.0}))
    weights = []
    for move in (2, 1, 1, 1, 1):
        gradient(loss, (certain(organ(shift=(move, 0, 0)), 1.0).requires_grad_(),), target)
        weights.append(float(loss.memory["term_2"][2]))
    assert weights[0] == weights[1] == weights[2]
    assert weights[3] != weights[0]
    assert weights[3] == weights[4]


def test_validation_does_not_move_the_weight() -> None:
    loss, target = weighed(TERM), organ()
    outputs = (certain(organ(shift=(2, 0, 0)), 1.0),)
    with torch.no_grad():
        loss(outputs, target)
        assert not loss.memory
    gradient(loss, (outputs[0].requires_grad_(),), target)
    before = loss.memory["term_2"].clone()
    with torch.no_grad():
        loss(outputs, target)
    torch.testing.assert_close(loss.memory["term_2"], before)


def test_without_a_shape_model_the_term_is_left_out() -> None:
    target = organ()
    logits = certain(organ(shift=(2, 0, 0)), 1.0).requires_grad_()
    with_term = build_loss(Loss(terms=(DiceTerm(), TERM)), plain(1))
    plain_loss = build_loss(Loss(terms=(DiceTerm(),)), plain(1))
    assert with_term((logits,), target).item() == plain_loss((logits,), target).item()
