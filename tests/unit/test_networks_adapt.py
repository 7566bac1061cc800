"""Kernels and heads that are changed to fit compute what they computed before."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from selfseg.networks.adapt import PREVIOUS, fit_head, fit_inputs, fit_kernel
from selfseg.networks.build import build_network
from selfseg.networks.channel_order import ChannelOrder
from selfseg.networks.counterparts import counterpart, is_head, is_stem
from selfseg.records.channels import channel_order
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    Network,
    ResidualUNet,
    TwoBranch,
    UNet,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def unet(stages: int, *, dims: int = 3, width: int = 4) -> UNet:
    return UNet(
        features=tuple(width * (i + 1) for i in range(stages)),
        kernels=((3,) * dims,) * stages,
        strides=((1,) * dims, *((2,) * dims,) * (stages - 1)),
        convs_encoder=(1,) * stages,
        convs_decoder=(1,) * (stages - 1),
    )


def context(stages: int) -> ContextUNet:
    return ContextUNet(
        slices=3,
        features=(4, 8, 12)[:stages],
        strides=((1, 1, 1), *((1, 2, 2),) * (stages - 1)),
        blocks_encoder=(1,) * stages,
        blocks_decoder=(1,) * (stages - 1),
        aspp_features=4,
        supervised=stages - 1,
    )


def two_branch(stages: int) -> TwoBranch:
    return TwoBranch(
        encoder=tuple(((3, 4 * (i + 1)),) for i in range(stages)),
        ups=tuple(4 * (stages - 1 - i) for i in range(stages - 1)),
        decoder=tuple(((3, 4 * (stages - 1 - i)),) for i in range(stages - 2)),
        branch=((3, 4),),
    )


def residual(stages: int) -> ResidualUNet:
    shared = unet(stages).model_dump(exclude={"kind", "convs_encoder"})
    return ResidualUNet(**shared, blocks_encoder=(1,) * stages)


NETWORKS: list[tuple[Network, Network]] = [
    (unet(3), unet(2)),
    (residual(3), residual(2)),
    (context(3), context(2)),
    (DSN3D(features=(2, 4, 6, 8), convs=(1,) * 4), DSN3D(features=(2, 4, 6), convs=(1,) * 3)),
    (two_branch(4), two_branch(3)),
]
KINDS = [deep.kind for deep, _ in NETWORKS]


@pytest.mark.parametrize(("deep", "flat"), NETWORKS, ids=KINDS)
def test_every_weight_of_the_flatter_network_has_its_place_in_the_deeper(
    deep: Network, flat: Network
) -> None:
    """All but those at the bottleneck have the very shape there, as widths go with resolution."""
    there = build_network(deep, channels=1, outputs=2).state_dict()
    here = build_network(flat, channels=1, outputs=2).state_dict()
    other = []
    for name, value in here.items():
        found = counterpart(name, flat, deep)
        assert found in there, name
        if there[found].shape != value.shape:
            other.append(name)
    assert all(name.startswith(("pyramid.", "decoder.0.0.")) for name in other), other
    assert len({counterpart(name, flat, deep) for name in here}) == len(here)


@pytest.mark.parametrize(("deep", "flat"), NETWORKS, ids=KINDS)
def test_decoder_weights_deeper_than_the_source_have_no_place(deep: Network, flat: Network) -> None:
    known = build_network(flat, channels=1, outputs=2).state_dict()
    lost = [
        name
        for name in build_network(deep, channels=1, outputs=2).state_dict()
        if counterpart(name, deep, flat) not in known
    ]
    assert lost
    assert not any(name.startswith(("encoder.0.", "encoder.1.")) for name in lost)


@pytest.mark.parametrize("network", [pair[0] for pair in NETWORKS], ids=KINDS)
def test_heads_are_what_depends_on_the_outputs(network: Network) -> None:
    two = build_network(network, channels=1, outputs=2).state_dict()
    five = build_network(network, channels=1, outputs=5).state_dict()
    changed = {name for name in two if two[name].shape != five[name].shape}
    assert changed == {name for name in two if is_head(name, network)}


@pytest.mark.parametrize("network", [pair[0] for pair in NETWORKS], ids=KINDS)
def test_the_stem_is_what_depends_on_the_channels(network: Network) -> None:
    one = build_network(network, channels=1, outputs=2).state_dict()
    two = build_network(network, channels=2, outputs=2).state_dict()
    changed = {name for name in one if one[name].shape != two[name].shape}
    assert {name for name in one if is_stem(name)} <= changed
    # A residual stem and a residual skip may both see the input.
    assert changed == {name for name in one if is_stem(name)}


def test_copies_of_a_channel_give_what_the_channel_gave() -> None:
    kernel, image = torch.randn(3, 1, 3, 3, 3), torch.randn(1, 1, 5, 5, 5)
    fitted, how = fit_inputs(kernel, ["CT"], ["a", "b", "c"])
    copies = image.expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(F.conv3d(copies, fitted), F.conv3d(image, kernel))
    assert "mean" in how


def test_channels_are_found_by_name() -> None:
    kernel = torch.randn(3, 2, 3, 3)
    swapped, how = fit_inputs(kernel, ["T1", "FLAIR"], ["flair", "t1"])
    torch.testing.assert_close(swapped, kernel[:, [1, 0]])
    assert "by name" in how
    one, _ = fit_inputs(kernel, ["T1", "FLAIR"], ["FLAIR"])
    torch.testing.assert_close(one, 2 * kernel[:, 1:])


def test_a_network_is_shown_channels_in_its_own_order() -> None:
    """PET, T1, T2 for a network of T1, T2, PET; as the fitted kernel computes it."""
    order = channel_order(["T1", "T2", "PET"], ["PET", "T1", "T2"])
    assert order is not None
    convolution = torch.nn.Conv3d(3, 2, 3, bias=False)
    image = torch.randn(1, 3, 4, 4, 4)
    fitted, _ = fit_inputs(convolution.weight, ["T1", "T2", "PET"], ["PET", "T1", "T2"])
    torch.testing.assert_close(ChannelOrder(convolution, order)(image), F.conv3d(image, fitted))


def test_a_channel_of_another_name_is_taken_in_order() -> None:
    kernel = torch.randn(3, 1, 3, 3)
    fitted, how = fit_inputs(kernel, ["MRI"], ["T1"])
    assert torch.equal(fitted, kernel)
    assert how == "channels in order: MRI → T1"
    assert fit_inputs(kernel, ["MRI"], ["mri"]) == (kernel, "")


def test_a_new_previous_stage_changes_nothing_at_the_start() -> None:
    kernel = torch.randn(3, 1, 3, 3)
    fitted, how = fit_inputs(kernel, ["CT"], ["CT", PREVIOUS + "liver"])
    image = torch.randn(1, 1, 6, 6)
    both = torch.cat((image, torch.randn(1, 1, 6, 6)), dim=1)
    torch.testing.assert_close(F.conv2d(both, fitted), F.conv2d(image, kernel))
    assert "liver at 0" in how


def test_rows_of_heads_follow_the_names() -> None:
    head, own = torch.randn(3, 4, 1, 1), torch.randn(4, 4, 1, 1)
    fit = fit_head(head, own, ["background", "a", "b"], ["background", "B", "new", "a"])
    assert fit is not None
    torch.testing.assert_close(fit[0], torch.stack((head[0], head[2], own[2], head[1])))
    assert fit[1] == "rows by name: background, b, a; new: new"


def test_background_alone_is_no_match() -> None:
    head = torch.randn(2, 4)
    assert fit_head(head, head, ["background", "a"], ["background", "b"]) is None


def test_a_kernel_of_one_becomes_three_that_compute_the_same() -> None:
    kernel, image = torch.randn(2, 3, 1, 3, 3), torch.randn(1, 3, 6, 6, 6)
    fit = fit_kernel(kernel, torch.Size((2, 3, 3, 3, 3)), upsampling=False)
    assert fit is not None
    torch.testing.assert_close(
        F.conv3d(image, fit[0], padding=1), F.conv3d(image, kernel, padding=(0, 1, 1))
    )
    flat = fit_kernel(kernel[:, :, 0], torch.Size((2, 3, 3, 3, 3)), upsampling=False)
    assert flat is not None
    torch.testing.assert_close(flat[0], fit[0])


def test_a_kernel_of_three_becomes_one_that_computes_the_same_on_equal_slices() -> None:
    kernel, plane = torch.randn(2, 3, 3, 3, 3), torch.randn(1, 3, 6, 6)
    fit = fit_kernel(kernel, torch.Size((2, 3, 3, 3)), upsampling=False)
    assert fit is not None
    slices = plane.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    expected = F.conv3d(slices, kernel)[:, :, 0]
    torch.testing.assert_close(F.conv2d(plane, fit[0]), expected, rtol=1e-4, atol=1e-5)
    assert fit[1] == "kernel 3×3×3 to 3×3"


def test_upsampling_repeats_what_it_has_no_other_weights_for() -> None:
    kernel, image = torch.randn(3, 2, 1, 2, 2), torch.randn(1, 3, 2, 4, 4)
    fit = fit_kernel(kernel, torch.Size((3, 2, 2, 2, 2)), upsampling=True)
    assert fit is not None
    small = F.conv_transpose3d(image, kernel, stride=(1, 2, 2))
    large = F.conv_transpose3d(image, fit[0], stride=2)
    torch.testing.assert_close(large, small.repeat_interleave(2, dim=2))
    back = fit_kernel(fit[0], kernel.shape, upsampling=True)
    assert back is not None
    torch.testing.assert_close(back[0], kernel)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (4, 3, 3, 3), (2, 1, 3, 3), (2,)])
def test_what_cannot_fit_is_left(shape: tuple[int, ...]) -> None:
    kernel = torch.randn(2, 3, 3, 3)
    assert fit_kernel(kernel, torch.Size(shape), upsampling=False) is None
