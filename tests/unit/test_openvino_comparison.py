"""When a compiled network is compared with torch again, and the second stage's input."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from selfseg.inference import openvino_engine
from selfseg.inference.openvino_engine import OpenVINONetwork, Program, largest_difference
from selfseg.networks.build import build_network
from selfseg.networks.one_hot import OneHotInput
from selfseg.records.network import UNet


class Plain(nn.Module):
    """Gives its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        return (x,)


def textured(*channels: int) -> Tensor:
    x = torch.zeros(1, 2, 4, 4)
    for channel in channels:
        x[0, channel, 0, 0] = 1.0
    return x


def wrong_where_channel_1_has_texture(network: nn.Module, x: Tensor) -> Program:
    return lambda batch: batch + (batch[:, 1:] > 0).float() * torch.tensor([[[[1.0]], [[0.0]]]])


def test_what_is_wrong_only_where_there_is_texture_is_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_engine, "compile_network", wrong_where_channel_1_has_texture)
    network = Plain()
    engine = OpenVINONetwork(network, "3d_cascade fold 0", regions=False)
    with caplog.at_level(logging.WARNING):
        for channels in ((), (0,), (0,)):
            torch.testing.assert_close(engine(textured(*channels))[0], textured(*channels))
        assert not caplog.records
        assert network.calls == 2, "compared once in air, once with texture"
        torch.testing.assert_close(engine(textured(0, 1))[0], textured(0, 1))
    assert "OpenVINO is not used" in caplog.text


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_the_second_stage_of_a_cascade_is_converted(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    options = UNet(
        features=(4, 8), kernels=((3,) * 3,) * 2, strides=((1,) * 3, (2,) * 3),
        convs_encoder=(1, 1), convs_decoder=(1,),
    )  # fmt: skip
    inner = build_network(options, channels=1 + 2, outputs=3).eval().requires_grad_(False)
    network = OneHotInput(inner, labels=2)
    engine = OpenVINONetwork(network, "3d_cascade fold 0", regions=False)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for seed in range(3):
            x = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
            x[:, 1] = torch.randint(0, 3, (8, 8, 8)).float()
            assert largest_difference(engine(x)[0], network(x)[0], regions=False) <= 1e-4
    assert not caplog.records
