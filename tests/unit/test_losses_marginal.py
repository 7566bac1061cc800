"""Marginal losses: the plain one where label sets agree, no pull on what is not annotated."""

from __future__ import annotations

import pytest
import torch
from targets import nested, plain
from torch import Tensor

from selfseg.losses.build import build_loss
from selfseg.losses.marginal import MarginalLoss, annotated_in, marginal_logits
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import BinaryCrossEntropyTerm, CrossEntropyTerm, DiceTerm

SOFTMAX = Loss(terms=(DiceTerm(batch=True), CrossEntropyTerm()))
SIGMOID = Loss(terms=(DiceTerm(), BinaryCrossEntropyTerm()))


def logits(channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((2, channels, 5, 6, 4), generator=generator)


def labels(largest: int) -> Tensor:
    return torch.randint(0, largest + 1, (2, 5, 6, 4), generator=torch.Generator().manual_seed(1))


def both(targets: Targets, options: Loss, annotated: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Return gradients of the plain and of the marginal loss."""
    gradients = []
    loss = build_loss(options, targets)
    regions = bool(targets.regions)
    for module in (loss, MarginalLoss(build_loss(options, targets), annotated, regions=regions)):
        x = logits(targets.outputs).requires_grad_()
        module((x,), labels(3)).backward()
        assert x.grad is not None
        gradients.append(x.grad)
    return gradients[0], gradients[1]


@pytest.mark.parametrize(("targets", "options"), [(plain(3), SOFTMAX), (nested(), SIGMOID)])
def test_it_is_the_plain_loss_where_label_sets_agree(targets: Targets, options: Loss) -> None:
    outputs, target = (logits(targets.outputs), logits(targets.outputs, 1)), labels(3)
    everything = annotated_in(targets, ("label 1", "label 2", "label 3"))
    loss = build_loss(options, targets)
    marginal = MarginalLoss(loss, everything, regions=bool(targets.regions))
    assert torch.equal(marginal(outputs, target), loss(outputs, target))
    one, other = both(targets, options, everything)
    assert torch.equal(one, other)


def test_probabilities_of_what_is_not_annotated_go_to_the_background() -> None:
    x = logits(4)
    expected = x.softmax(dim=1)
    found = marginal_logits(x, (True, False, False), regions=False).softmax(dim=1)
    torch.testing.assert_close(found[:, 0], expected[:, [0, 2, 3]].sum(dim=1))
    torch.testing.assert_close(found[:, 1], expected[:, 1])
    assert not found[:, 2:].any()


def test_the_loss_is_that_of_a_network_with_fewer_labels() -> None:
    x, target = logits(4), labels(1)
    p = x.softmax(dim=1)
    fewer = torch.stack((p[:, [0, 2, 3]].sum(dim=1), p[:, 1]), dim=1).log()
    marginal = MarginalLoss(
        build_loss(Loss(terms=(CrossEntropyTerm(),)), plain(3)), (True, False, False), regions=False
    )
    expected = build_loss(Loss(terms=(CrossEntropyTerm(),)), plain(1))((fewer,), target)
    torch.testing.assert_close(marginal((x,), target), expected)


def test_splitting_the_background_is_left_to_the_other_data_set() -> None:
    x = logits(3).requires_grad_()
    loss = MarginalLoss(build_loss(SOFTMAX, plain(2)), (True, False), regions=False)
    loss((x,), labels(1)).backward()
    assert x.grad is not None
    p = x.detach().softmax(dim=1)
    # both parts of the marginal background are pushed alike: in proportion to their share of it
    torch.testing.assert_close(x.grad[:, 0] * p[:, 2], x.grad[:, 2] * p[:, 0], rtol=1e-3, atol=1e-8)
    assert x.grad[:, 2].abs().max() > 1e-5


def test_a_region_that_is_not_annotated_is_left_alone() -> None:
    annotated = annotated_in(nested(), ("label 2", "label 3"))
    assert annotated == (False, True, True)
    x = logits(3).requires_grad_()
    target = labels(3).where(labels(3) != 1, 0)
    target = target * 0 + 3 * (target == 3)
    loss = MarginalLoss(build_loss(SIGMOID, nested()), annotated, regions=True)
    loss((x,), target).backward()
    assert x.grad is not None
    assert not x.grad[:, 0].any()
    assert x.grad[:, 1:].abs().amax(dim=(0, 2, 3, 4)).min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_stays_finite(dtype: torch.dtype) -> None:
    x = (logits(4) * 5).to(dtype).requires_grad_()
    loss = MarginalLoss(build_loss(SOFTMAX, plain(3)), (False, True, False), regions=False)
    value = loss((x,), 2 * labels(1))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
