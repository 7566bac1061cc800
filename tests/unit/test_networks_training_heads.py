"""Heads that only training uses: their outputs, what is exported, and that a run can go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from targets import nested, plain
from torch import nn
from trainingdata import make_configuration
from trainingjobs import LONG, SHORT, make_job, stop_at_step

from selfseg.inference.trained import weights_digest
from selfseg.losses.build import build_loss
from selfseg.networks.build import build_network, build_training_network
from selfseg.networks.training_heads import PREFIX, HeadCounts, exported, needed_heads
from selfseg.networks.weights import load_weights
from selfseg.preprocessing.loss_maps import prepare_maps
from selfseg.records.augmentation import Augmentation
from selfseg.records.loss import Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import (
    CrossEntropyTerm,
    DiceTerm,
    SegmentWeightsTerm,
    SignedDistanceTerm,
)
from selfseg.records.network import DSN3D, ContextUNet, Network, ResidualUNet, UNet
from selfseg.training.checkpoints import read_position
from selfseg.training.job import TrainingJob
from selfseg.training.state import create_state
from selfseg.training.step import final_weights, train_step
from selfseg.training.train import train

PLAIN = UNet(
    features=(4, 6, 8, 10),
    kernels=((3, 3, 3),) * 4,
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
    convs_encoder=(1,) * 4,
    convs_decoder=(1,) * 3,
)
FLAT = ResidualUNet(
    features=(4, 6, 8),
    kernels=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (3, 3)),
    blocks_encoder=(1,) * 3,
    convs_decoder=(1,) * 2,
)
CONTEXT = ContextUNet(
    slices=3,
    features=(4, 6, 8),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)),
    blocks_encoder=(1,) * 3,
    blocks_decoder=(1,) * 2,
    aspp_features=8,
)
SMALL_DSN = DSN3D(features=(4, 6, 8), convs=(1, 1, 1))


@pytest.mark.parametrize(
    ("options", "shape", "sides"),
    [(PLAIN, (8, 16, 16), 2), (FLAT, (12, 18), 1), (CONTEXT, (3, 16, 16), 0),
     (SMALL_DSN, (8, 8, 8), 0)],
    ids=lambda value: getattr(value, "kind", None),
)  # fmt: skip
def test_outputs_of_training_and_of_prediction(
    options: Network, shape: tuple[int, ...], sides: int
) -> None:
    torch.manual_seed(3)
    without = build_network(options, channels=2, outputs=3)
    torch.manual_seed(3)
    network = build_training_network(
        options, channels=2, outputs=3, heads=HeadCounts(distances=2, sides=sides)
    )
    image = torch.randn(2, 2, *shape)
    torch.manual_seed(0)
    expected = without(image)
    torch.manual_seed(0)
    found = network(image)
    assert torch.equal(found[0][:, :3], expected[0])
    assert found[0].shape[1] == 5
    assert len(found) == len(expected) + sides
    for out in found[len(expected) :]:
        assert out.shape == expected[0].shape
    assert torch.equal(network.eval()(image)[0], without.eval()(image)[0])
    weights = exported(network.state_dict())
    assert weights.keys() == without.state_dict().keys()
    without.load_state_dict(weights)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "parallel"])
def test_heads_do_not_slip_through_behind_the_name_of_a_wrapper(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    network = build_training_network(PLAIN, channels=1, outputs=3, heads=HeadCounts(distances=2))
    weights = wrap(network).state_dict()
    assert not any(name.startswith(PREFIX) for name in weights)
    with pytest.raises(AssertionError, match="wrapped network"):
        exported(weights)


def test_the_average_is_of_the_network_itself() -> None:
    state = create_state(
        make_configuration((8, 8, 8), batch=1), SHORT, channels=1, outputs=3, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert state.average
    assert not any(name.startswith(PREFIX) for name in final_weights(state))
    other = {f"_orig_mod.{name}": value for name, value in state.average.items()}
    with pytest.raises(AssertionError, match="the average is of another network"):
        final_weights(replace(state, average=other))


def test_deconvolutions_of_a_side_head_are_those_of_the_table() -> None:
    network = build_training_network(
        PLAIN, channels=1, outputs=3, heads=HeadCounts(distances=0, sides=2)
    )
    shapes = [
        tuple(value.shape)
        for name, value in network.state_dict().items()
        if name.startswith("training_heads.sides.0") and name.endswith("weight")
    ]
    # stage 2 at a stride of 2·4·4 voxels: 4³ where the stride is 2, 1 where it is 1
    assert shapes == [(8, 6, 4, 4, 4), (6, 4, 1, 4, 4), (3, 4, 1, 1, 1)]


def test_counts_follow_the_loss() -> None:
    distance = SignedDistanceTerm()
    assert needed_heads(Loss(terms=(distance,)), plain(2)) == HeadCounts(2, 0)
    assert needed_heads(Loss(terms=(distance,)), nested()) == HeadCounts(3, 0)
    some = Loss(terms=(SignedDistanceTerm(labels=("core",)),), encoder_heads=2)
    assert needed_heads(some, nested()) == HeadCounts(1, 2)
    assert needed_heads(Loss(terms=(DiceTerm(),)), plain(2)) == HeadCounts()


def test_encoder_heads_have_a_gradient_and_their_weights() -> None:
    loss_options = Loss(
        terms=(CrossEntropyTerm(),), output_weights=(1.0, 0.5, 0.25, 0.4, 0.2), side_fade=0.5,
        encoder_heads=2,
    )  # fmt: skip
    network = build_training_network(
        PLAIN, channels=1, outputs=3, heads=needed_heads(loss_options, plain(2))
    )
    outputs = network(torch.randn(1, 1, 8, 16, 16))
    loss = build_loss(loss_options, plain(2))
    target = torch.randint(0, 3, (1, 8, 16, 16))
    loss(outputs, target).backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
    side = [out.detach() for out in outputs[3:]]
    nothing = [torch.zeros_like(out) for out in outputs[:3]]
    alone = loss([*nothing, *side], target) - loss([*nothing, *map(torch.zeros_like, side)], target)
    surprise = [float(torch.nn.functional.cross_entropy(out, target)) for out in side]
    flat = float(torch.log(torch.tensor(3.0)))
    expected = 0.4 * (surprise[0] - flat) + 0.2 * (surprise[1] - flat)
    assert float(alone) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def job_with_heads(tmp_path: Path, *, short: bool) -> TrainingJob:
    """Return a job whose loss needs a head for distances and one on an encoder stage."""
    network = UNet(
        features=(4, 6, 8),
        kernels=((3, 3, 3),) * 3,
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        convs_encoder=(1,) * 3,
        convs_decoder=(1,) * 2,
    )
    loss = Loss(
        terms=(DiceTerm(), SignedDistanceTerm(start=0.2), SegmentWeightsTerm(every=3)),
        output_weights=(1.0, 0.5, 0.2),
        encoder_heads=1,
    )
    job = make_job(tmp_path)
    options = job.configuration.optimization.model_copy(
        update={"recipe": SHORT if short else LONG, "short_below_steps": 0}
    )
    configuration = job.configuration.model_copy(
        update={"loss": loss, "network": network, "optimization": options}
    )
    maps = tmp_path / "maps"
    prepare_maps(
        (*job.train_cases, *job.validation_cases), job.data, maps, maps=needed_maps(loss),
        targets=job.plan.targets, flat=False, patch=configuration.patch, workers=1,
    )  # fmt: skip
    return replace(job, configuration=configuration, loss_maps=maps)


@pytest.mark.parametrize("short", [False, True], ids=["sgd", "averaged"])
def test_a_killed_run_goes_on_bit_equal_and_exports_no_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, short: bool
) -> None:
    job = job_with_heads(tmp_path, short=short)
    other = replace(job, output=replace(job.output, path=tmp_path / "other"))
    stop_at_step(7, other, monkeypatch)
    found = read_position(other.output)
    assert found is not None
    assert any("training_heads.distance" in name for name in found[1])
    assert any("training_heads.sides" in name for name in found[1])
    for item in (job, other):
        train(item)
    first, second = (load_weights(item.output.weights) for item in (job, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    plainly = build_network(job.configuration.network, channels=1, outputs=job.outputs)
    plainly.load_state_dict(first)
    without = job.configuration.model_copy(update={"loss": Loss(terms=(DiceTerm(),))})
    assert weights_digest(job.plan, job.configuration) == weights_digest(job.plan, without)


def test_the_head_learns_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfseg.training import train as training

    job = replace(job_with_heads(tmp_path, short=False), epochs=12)
    errors: list[float] = []

    def spy(state, batch, loss, **options):  # type: ignore[no-untyped-def]
        assert loss.step == state.step
        value = train_step(state, batch, loss, **options)
        errors.append(float(value))
        assert not any(name.startswith("training_heads") for name in final_weights(state))
        return value

    monkeypatch.setattr(training, "train_step", spy)
    terms = (SignedDistanceTerm(consistency=0.0), SegmentWeightsTerm(weight=0.0))
    configuration = job.configuration.model_copy(update={"loss": Loss(terms=terms)})
    job = replace(job, configuration=configuration)
    train(job)
    assert sum(errors[-8:]) / 8 < sum(errors[:8]) / 8 - 0.1


@pytest.mark.parametrize(
    ("network", "patch"),
    [(FLAT, (12, 12)), (CONTEXT, (3, 16, 16)), (SMALL_DSN, (8, 8, 8))],
    ids=lambda value: getattr(value, "kind", None),
)
def test_every_network_trains_with_a_head_for_distances(
    tmp_path: Path, network: Network, patch: tuple[int, ...]
) -> None:
    loss = Loss(terms=(CrossEntropyTerm(), SignedDistanceTerm(labels=("rim",))))
    job = replace(make_job(tmp_path), epochs=1)
    changes = {"loss": loss, "network": network, "patch": patch}
    configuration = job.configuration.model_copy(
        update={**changes, "augmentation": Augmentation(mirror_axes=(0, 1))}
    )
    maps = tmp_path / "maps"
    prepare_maps(
        (*job.train_cases, *job.validation_cases), job.data, maps, maps=needed_maps(loss),
        targets=job.plan.targets, flat=len(patch) == 2, patch=patch, workers=1,
    )  # fmt: skip
    job = replace(job, configuration=configuration, loss_maps=maps)
    assert train(job).steps == 4
    plainly = build_network(network, channels=1, outputs=job.outputs)
    plainly.load_state_dict(load_weights(job.output.weights))
