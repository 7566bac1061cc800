"""The 3D deeply supervised network: its layer table, its weights, its outputs, its loss."""

from __future__ import annotations

import pytest
import torch
from networkcounts import count_outputs_of_convolutions
from selfseg.planners.counts import count_features, count_parameters
from targets import plain
from torch import nn
from torch.nn import functional as F

from selfseg.losses.build import build_loss
from selfseg.networks.build import build_network
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm
from selfseg.records.network import DSN3D

SMALL = DSN3D(features=(4, 6, 8), convs=(1, 2, 2))


def weights(network: nn.Module) -> int:
    kinds = (nn.Conv3d, nn.ConvTranspose3d)
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, kinds))


def test_the_released_network_has_seven_million_weights() -> None:
    network = build_network(DSN3D(), channels=1, outputs=3)
    assert weights(network) == pytest.approx(7.0e6, rel=0.005)
    sides = [network.get_submodule("sides")]
    assert weights(network) - sum(map(weights, sides)) == pytest.approx(6.2e6, rel=0.01)


def test_layers_are_those_of_the_table() -> None:
    network = build_network(DSN3D(), channels=1, outputs=3)

    def widths(name: str) -> list[int]:
        kinds = (nn.Conv3d, nn.ConvTranspose3d)
        layers = network.get_submodule(name).modules()
        return [layer.out_channels for layer in layers if isinstance(layer, kinds)]

    assert [widths(f"encoder.{stage}") for stage in range(4)] == [
        [32], [64, 64], [128, 128], [256, 256],
    ]  # fmt: skip
    assert widths("decoder") == [128, 64, 32]
    assert widths("sides.0") == [64, 32, 3]
    assert widths("sides.1") == [32, 3]
    for name, has_bias in (("decoder.0", True), ("sides.0.0", False)):
        up = network.get_submodule(name)
        assert isinstance(up, nn.ConvTranspose3d)
        assert up.kernel_size == (4, 4, 4)
        assert (up.bias is not None) == has_bias


def test_every_output_has_full_resolution_and_prediction_has_one() -> None:
    network = build_network(SMALL, channels=2, outputs=3)
    image = torch.randn(1, 2, 8, 16, 12)
    assert [tuple(out.shape) for out in network(image)] == [(1, 3, 8, 16, 12)] * 2
    assert len(network.eval()(image)) == 1


def test_the_receptive_field_is_66_voxels() -> None:
    """At the deepest convolution of the table: 3³ convolutions and 2³ pooling."""
    seen, step = 1, 1
    for stage, convs in enumerate(DSN3D().convs):
        if stage:
            seen, step = seen + step, 2 * step
        seen += 2 * step * convs
    assert seen == 66


@pytest.mark.parametrize("options", [SMALL, DSN3D(features=(4, 6, 8, 10), convs=(1, 2, 1, 2))])
def test_counts_are_those_of_the_built_network(options: DSN3D) -> None:
    network = build_network(options, channels=2, outputs=3)
    assert count_parameters(options, 2, 3) == sum(p.numel() for p in network.parameters())
    total = count_outputs_of_convolutions(network, torch.zeros(1, 2, 8, 16, 24))
    assert count_features(options, (8, 16, 24), 3) == total


def test_weights_of_side_outputs_fade() -> None:
    torch.manual_seed(0)
    options = Loss(terms=(CrossEntropyTerm(),), output_weights=(1.0, 0.4, 0.2), side_fade=0.25)
    loss = build_loss(options, plain(2))
    outputs = [torch.randn(1, 3, 4, 4, 4) for _ in range(3)]
    target = torch.randint(0, 3, (1, 4, 4, 4))
    main, deep, shallow = (float(F.cross_entropy(out, target)) for out in outputs)
    for progress, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.25)):
        loss.progress = progress
        expected = main + share * (0.4 * deep + 0.2 * shallow)
        assert float(loss(outputs, target)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(outputs[:1], target)) == pytest.approx(main, rel=1e-5)


def test_the_initial_weights_are_small_and_normal() -> None:
    network = build_network(DSN3D(), channels=1, outputs=3)
    convolution = next(
        m for m in network.modules() if isinstance(m, nn.Conv3d) and m.in_channels > 1
    )
    assert float(convolution.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
