"""The network of two branches: its layer table, its outputs, what is predicted of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networkcounts import count_outputs_of_convolutions
from selfseg.planners.counts import count_features, count_parameters
from targets import plain
from torch import nn
from trainingjobs import make_job

from selfseg.losses.build import build_loss
from selfseg.networks.build import build_network
from selfseg.networks.two_branch import merged
from selfseg.networks.weights import load_weights
from selfseg.preprocessing.loss_maps import prepare_maps
from selfseg.records.augmentation import Augmentation
from selfseg.records.loss import Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import CrossEntropyTerm, SegmentWeightsTerm, TopKTerm
from selfseg.records.network import TwoBranch
from selfseg.training.train import train

SMALL = TwoBranch(
    encoder=(((3, 4), (5, 6)), ((3, 8),), ((3, 10), (3, 12))),
    ups=(7, 5),
    decoder=(((5, 9),),),
    branch=((3, 4), (3, 6)),
)


def layers(module: nn.Module) -> list[tuple[int, int]]:
    """Return kernel and width of every convolution."""
    return [
        (layer.kernel_size[0], layer.out_channels)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]


def test_layers_are_those_of_the_release() -> None:
    with torch.device("meta"):
        network = build_network(TwoBranch(), channels=1, outputs=2)
    assert layers(network.get_submodule("encoder")) == [
        (9, 128), (7, 128), (5, 128), (3, 128), (3, 256), (3, 64), (3, 512), (3, 512),
        (3, 1024), (3, 1024),
    ]  # fmt: skip
    assert layers(network.get_submodule("ups")) == [(2, 512), (2, 256), (2, 128), (2, 128)]
    assert layers(network.get_submodule("decoder")) == [
        (3, 512), (3, 512), (3, 256), (3, 256), (3, 128), (5, 128),
    ]  # fmt: skip
    for number in (0, 1):
        branch = network.get_submodule(f"branches.{number}")
        assert layers(branch) == [(7, 128), (9, 128), (1, 2)]
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == 2
    assert count_parameters(TwoBranch(), 1, 2) == sum(p.numel() for p in network.parameters())


def test_training_gives_both_branches_and_prediction_one_map() -> None:
    network = build_network(SMALL, channels=2, outputs=3)
    image = torch.randn(2, 2, 16, 24)
    assert [tuple(out.shape) for out in network(image)] == [(2, 3, 16, 24)] * 2
    assert [tuple(out.shape) for out in network.eval()(image)] == [(2, 3, 16, 24)]


@pytest.mark.parametrize("classes", [2, 3])
def test_foreground_probabilities_are_multiplied(classes: int) -> None:
    torch.manual_seed(0)
    first, second = 3 * torch.randn(2, 2, classes, 5, 6)
    expected = first.softmax(1)[:, 1:] * second.softmax(1)[:, 1:]
    product = merged(first, second, "product").softmax(1)[:, 1:]
    assert torch.allclose(product, expected, atol=1e-6)
    root = merged(first, second, "geometric").softmax(1)[:, 1:]
    assert torch.allclose(root, expected.sqrt(), atol=1e-5)
    assert torch.allclose(merged(first, first, "geometric").softmax(1), first.softmax(1), atol=1e-5)
    sure = torch.full((1, 2, 3, 3), 200.0) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert bool(merged(sure, -sure, "product").isfinite().all())


def test_every_loss_has_its_branch() -> None:
    options = Loss(
        terms=(
            TopKTerm(outputs=(0,)),
            CrossEntropyTerm(outputs=(1,), class_weights=(0.1, 0.9)),
        ),
        output_weights=(1.0, 1.0),
    )
    loss = build_loss(options, plain(1))
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 2, 6, 6)
    target = torch.randint(0, 2, (1, 6, 6))

    def alone(term: TopKTerm | CrossEntropyTerm, out: torch.Tensor) -> float:
        return float(build_loss(Loss(terms=(term,)), plain(1))((out,), target))

    expected = alone(TopKTerm(), first)
    expected += alone(CrossEntropyTerm(class_weights=(0.1, 0.9)), second)
    assert float(loss((first, second), target)) == pytest.approx(expected, rel=1e-6)
    network = build_network(SMALL, channels=1, outputs=2)
    loss(network(torch.randn(1, 1, 8, 8)), torch.ones(1, 8, 8, dtype=torch.long)).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_counts_are_those_of_the_built_network() -> None:
    network = build_network(SMALL, channels=2, outputs=3)
    assert count_parameters(SMALL, 2, 3) == sum(p.numel() for p in network.parameters())
    total = count_outputs_of_convolutions(network, torch.zeros(1, 2, 16, 24))
    assert count_features(SMALL, (16, 24), 3) == total


def test_both_branches_train_on_maps_and_predict(tmp_path: Path) -> None:
    loss = Loss(
        terms=(
            SegmentWeightsTerm(labels=("core",)),
            CrossEntropyTerm(outputs=(1,), class_weights=(0.1, 0.9, 0.9)),
        ),
        output_weights=(1.0, 1.0),
    )
    job = replace(make_job(tmp_path), epochs=1)
    configuration = job.configuration.model_copy(
        update={
            "loss": loss,
            "network": SMALL,
            "patch": (12, 12),
            "augmentation": Augmentation(mirror_axes=(0, 1)),
        }
    )
    maps = tmp_path / "maps"
    prepare_maps(
        (*job.train_cases, *job.validation_cases), job.data, maps, maps=needed_maps(loss),
        targets=job.plan.targets, flat=True, patch=(12, 12), workers=1,
    )  # fmt: skip
    job = replace(job, configuration=configuration, loss_maps=maps)
    assert train(job).steps == 4
    network = build_network(SMALL, channels=1, outputs=3)
    network.load_state_dict(load_weights(job.output.weights))
    assert len(network.eval()(torch.zeros(1, 1, 12, 12))) == 1
