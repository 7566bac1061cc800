"""The dual-channel network: a gated second encoder that starts as nothing, and a second stream."""

from __future__ import annotations

import pytest
import torch
from networkcounts import count_outputs_of_convolutions
from selfseg.planners.counts import count_features, count_parameters
from torch import Tensor, nn
from torch.func import functional_call

from selfseg.networks.build import build_network, build_training_network
from selfseg.networks.dual_channel import AuxiliaryStream, SecondEncoder
from selfseg.networks.training_heads import STREAM, HeadCounts, exported
from selfseg.records import serial
from selfseg.records.network import (
    DualChannel,
    GatedEncoders,
    JointStreams,
    PlainNetwork,
    ResidualUNet,
    SecondInput,
    UNet,
)

PLAIN = UNet(
    features=(4, 6, 8),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    convs_encoder=(2, 1, 2),
    convs_decoder=(1, 2),
)
FLAT = ResidualUNet(
    features=(4, 6, 8),
    kernels=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    blocks_encoder=(1, 2, 1),
    convs_decoder=(1, 1),
)
SHAPES = {PLAIN: (6, 8, 12), FLAT: (8, 12)}
LAYOUTS = {PLAIN: torch.channels_last_3d, FLAT: torch.channels_last}
BOTH = pytest.mark.parametrize("backbone", [PLAIN, FLAT])


def gated(backbone: PlainNetwork, *, channels: int | None = 1, frozen: bool = False) -> DualChannel:
    return DualChannel(backbone=backbone, variant=GatedEncoders(channels=channels, frozen=frozen))


def image(backbone: PlainNetwork, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (2, channels, *SHAPES[backbone])
    return torch.randn(shape, generator=generator).contiguous(memory_format=LAYOUTS[backbone])


def built(options: DualChannel | PlainNetwork, *, heads: HeadCounts | None = None) -> nn.Module:
    torch.manual_seed(5)
    return build_training_network(options, channels=3, outputs=2, heads=heads or HeadCounts())


def second(network: nn.Module) -> SecondEncoder:
    found = network.get_submodule("second")
    assert isinstance(found, SecondEncoder)
    return found


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_gated_encoders_start_as_the_primary_branch_alone(
    backbone: PlainNetwork, *, training: bool
) -> None:
    alone, whole = built(backbone).train(training), built(gated(backbone)).train(training)
    expected, found = alone(image(backbone)), whole(image(backbone))
    assert len(found) == (2 if training else 1)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@BOTH
def test_the_second_encoder_is_learned_from_the_first_step_on(backbone: PlainNetwork) -> None:
    network = built(gated(backbone))
    torch.stack([out.square().mean() for out in network(image(backbone))]).sum().backward()  # type: ignore[no-untyped-call]
    for fusion in second(network).fusions:
        grad = fusion.get_parameter("value.weight").grad
        assert grad is not None
        assert grad.abs().max() > 0


def test_the_second_encoder_changes_the_output_once_it_is_let_through() -> None:
    alone, whole = built(PLAIN).eval(), built(gated(PLAIN)).eval()
    for fusion in second(whole).fusions:
        nn.init.ones_(fusion.get_parameter("value.weight"))
    assert not torch.allclose(alone(image(PLAIN))[0], whole(image(PLAIN))[0], atol=1e-3)


def test_the_second_encoder_sees_the_first_channels_only() -> None:
    network = second(built(gated(PLAIN, channels=1)))
    for fusion in network.fusions:
        nn.init.ones_(fusion.get_parameter("value.weight"))
    sizes = ((6, 8, 12), (6, 4, 6), (3, 2, 3))
    maps = [torch.zeros(2, w, *size) for w, size in zip(PLAIN.features, sizes, strict=True)]
    other = image(PLAIN)
    other[:, 1:] += 1
    for here, there in zip(network(image(PLAIN), maps), network(other, maps), strict=True):
        assert torch.equal(here, there)


def test_a_frozen_encoder_is_not_trained() -> None:
    network = built(gated(PLAIN, frozen=True))
    for fusion in second(network).fusions:
        nn.init.ones_(fusion.get_parameter("value.weight"))
    torch.stack([out.square().mean() for out in network(image(PLAIN))]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in second(network).encoder.parameters())
    assert all(p.grad is not None for p in second(network).fusions.parameters())
    assert all(p.grad is not None for p in network.get_submodule("encoder").parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_works_in_reduced_precision(dtype: torch.dtype) -> None:
    network = built(gated(PLAIN))
    for fusion in second(network).fusions:
        nn.init.ones_(fusion.get_parameter("value.weight"))
    exact = network(image(PLAIN))[0].detach()
    with torch.autocast("cpu", dtype):
        reduced = network(image(PLAIN))
    assert reduced[0].dtype == dtype
    scale = float(exact.abs().max())
    assert float((reduced[0].detach().float() - exact).abs().max()) < 0.1 * scale
    torch.stack([out.float().square().mean() for out in reduced]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_training_heads_see_what_both_encoders_made() -> None:
    outputs = built(gated(PLAIN), heads=HeadCounts(distances=1, sides=1))(image(PLAIN))
    assert [tuple(out.shape) for out in outputs] == [
        (2, 3, 6, 8, 12),
        (2, 2, 6, 4, 6),
        (2, 2, 6, 8, 12),
    ]


@BOTH
@pytest.mark.parametrize("channels", [1, None])
def test_the_memory_formula_counts_what_is_there(
    backbone: PlainNetwork, channels: int | None
) -> None:
    options = gated(backbone, channels=channels)
    network = build_network(options, channels=3, outputs=2).eval()
    assert count_parameters(options, 3, 2) == sum(p.numel() for p in network.parameters())
    found = count_outputs_of_convolutions(network, image(backbone)[:1])
    assert count_features(options, SHAPES[backbone], 2) == found


@pytest.mark.parametrize("variant", [JointStreams(), SecondInput()])
def test_other_variants_predict_as_the_backbone(variant: JointStreams | SecondInput) -> None:
    options = DualChannel(backbone=PLAIN, variant=variant)
    assert torch.equal(built(options).eval()(image(PLAIN))[0], built(PLAIN).eval()(image(PLAIN))[0])


@pytest.mark.parametrize("outputs", [None, 2])
def test_only_a_second_data_set_needs_a_stream(outputs: int | None) -> None:
    """Without one a network of two streams trains as its backbone: the control of a race."""
    options = DualChannel(backbone=PLAIN, variant=JointStreams())
    torch.manual_seed(0)
    network = build_training_network(
        options, channels=3, outputs=2, heads=HeadCounts(), stream_outputs=outputs
    )
    names = {name for name, _ in network.named_parameters()}
    assert any(name.startswith("auxiliary_stream.") for name in names) is (outputs is not None)
    plain = built(PLAIN).state_dict()
    assert {name for name in names if not name.startswith("auxiliary_stream.")} == set(plain)


@BOTH
def test_a_stream_shares_convolutions_and_nothing_else(backbone: PlainNetwork) -> None:
    network = built(backbone)
    network.auxiliary_stream = AuxiliaryStream(network, outputs=5)
    stream = network.get_submodule("auxiliary_stream")
    assert isinstance(stream, AuxiliaryStream)
    own, other = (
        network(image(backbone)),
        functional_call(network, dict(stream.weights()), (image(backbone),)),
    )
    assert [out.shape[1] for out in other] == [5] * len(own)
    torch.stack([out.square().mean() for out in other]).sum().backward()  # type: ignore[no-untyped-call]
    primary = {n: p for n, p in network.named_parameters() if not n.startswith(STREAM)}
    replaced = set(stream.weights())
    assert replaced < set(primary)
    for name, values in primary.items():
        assert (values.grad is None) == (name in replaced), name
    assert all(values.grad is not None for values in stream.weights().values())
    assert set(exported(network.state_dict())) == set(primary)


def test_norms_of_a_stream_start_as_those_of_the_network() -> None:
    network = built(PLAIN)
    for values in network.parameters():
        values.data.normal_()
    weights = AuxiliaryStream(network, outputs=2).weights()
    name = "encoder.0.0.norm.weight"
    assert torch.equal(weights[name], network.get_parameter(name))


def test_options_are_told_apart_by_their_kind() -> None:
    for variant in (GatedEncoders(channels=2), JointStreams(), SecondInput()):
        options = DualChannel(backbone=FLAT, variant=variant)
        assert serial.decode(DualChannel, serial.text(options), source="here") == options
