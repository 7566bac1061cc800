"""OpenVINO gives what torch gives, for every network; where it does not, torch goes on, loudly."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.inference import openvino_engine
from selfseg.inference.cascade import load_previous
from selfseg.inference.ensemble import MeanOfLogits
from selfseg.inference.model import Model, load_model
from selfseg.inference.openvino_engine import (
    TOLERANCE,
    OpenVINONetwork,
    Program,
    largest_difference,
)
from selfseg.networks.build import build_network
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.records.dataset import Region
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    GatedEncoders,
    JointStreams,
    Network,
    ResidualUNet,
    SecondInput,
    TwoBranch,
    UNet,
)

CPU = torch.device("cpu")
installed = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


def unet(dims: int) -> UNet:
    return UNet(
        features=(4, 8, 8), kernels=((3,) * dims,) * 3, strides=((1,) * dims, *((2,) * dims,) * 2),
        convs_encoder=(1, 2, 1), convs_decoder=(1, 1),
    )  # fmt: skip


def residual(dims: int) -> ResidualUNet:
    return ResidualUNet(
        features=(4, 8, 8), kernels=((3,) * dims,) * 3, strides=((1,) * dims, *((2,) * dims,) * 2),
        blocks_encoder=(1, 2, 1), convs_decoder=(1, 1),
    )  # fmt: skip


def context(*, separable: bool) -> ContextUNet:
    return ContextUNet(
        slices=5, features=(4, 8, 8), strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)),
        blocks_encoder=(1, 2, 1), blocks_decoder=(1, 2), aspp_features=8, separable=separable,
    )  # fmt: skip


NETWORKS: dict[str, tuple[Network, tuple[int, ...]]] = {
    "unet": (unet(3), (16, 16, 16)),
    "unet 2d": (unet(2), (16, 16)),
    "residual": (residual(3), (16, 16, 16)),
    "residual 2d": (residual(2), (16, 16)),
    "context": (context(separable=True), (5, 16, 16)),
    "context, ordinary": (context(separable=False), (5, 16, 16)),
    "dsn": (DSN3D(features=(4, 8, 8), convs=(1, 1, 1)), (16, 16, 16)),
    "two branches": (
        TwoBranch(encoder=(((3, 4),), ((3, 8),)), ups=(4,), decoder=(), branch=((3, 4),)),
        (16, 16),
    ),
    "gated": (
        DualChannel(backbone=unet(3), variant=GatedEncoders(channels=1)),
        (16, 16, 16),
    ),
    "gated residual": (
        DualChannel(backbone=residual(3), variant=GatedEncoders()),
        (16, 16, 16),
    ),
    "streams": (DualChannel(backbone=unet(3), variant=JointStreams()), (16, 16, 16)),
    "second input": (DualChannel(backbone=unet(3), variant=SecondInput()), (16, 16, 16)),
}


def ready(options: Network, dims: int) -> nn.Module:
    """Return a network as it is loaded, with no parameter at the zero that it starts at."""
    torch.manual_seed(0)
    network = build_network(options, channels=2, outputs=3).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    set_layout(network, CHANNELS_LAST[dims])
    return network


def count_calls(network: nn.Module) -> list[None]:
    calls: list[None] = []
    network.register_forward_hook(lambda *_: calls.append(None))
    return calls


@installed
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_probabilities_of_torch(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, patch = NETWORKS[name]
    network = ready(options, len(patch))
    first, second = (
        torch.randn(2, 2, *patch).contiguous(memory_format=CHANNELS_LAST[len(patch)])
        for _ in range(2)
    )
    expected = network(second)[0]
    assert largest_difference(network(first)[0], expected, regions=False) > 10 * TOLERANCE
    engine = OpenVINONetwork(network, name, regions=False)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        engine(first)
        calls = count_calls(network)
        (logits,) = engine(second)
    assert not warnings_of(caplog)
    assert not calls, "torch computes"
    assert logits.shape == expected.shape
    assert largest_difference(logits, expected, regions=False) <= 1e-4


@installed
def test_half_precision_of_torch_is_not_taken_for_a_disparity(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, x = ready(unet(2), 2), torch.randn(1, 2, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (logits,) = OpenVINONetwork(network, "tiny", regions=False)(x)
    assert not warnings_of(caplog)
    assert largest_difference(logits, network(x)[0], regions=False) <= 1e-4


class Constant(nn.Module):
    """Two outputs: the input's first channel, and nothing."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([x[:, :1], torch.zeros_like(x[:, :1])], dim=1),)


def programs(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor] = Tensor.clone
) -> list[int]:
    """Let programs be torch's own with a change; return the batches that are compiled for."""
    compiled: list[int] = []

    def compile_network(network: nn.Module, x: Tensor) -> Program:
        compiled.append(len(x))

        def program(batch: Tensor) -> Tensor:
            assert batch.shape == x.shape, "shapes are static"
            return change(network(batch)[0])

        return program

    monkeypatch.setattr(openvino_engine, "compile_network", compile_network)
    return compiled


def second_plus(value: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits + torch.tensor([0.0, value]).view(1, 2, 1, 1)


@pytest.mark.parametrize(("value", "text"), [(0.01, r"0\.002"), (float("nan"), "nan")])
def test_another_probability_is_told_and_torch_goes_on(
    value: float, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = programs(monkeypatch, second_plus(value))
    network, x = Constant(), torch.zeros(3, 1, 4, 4)
    engine = OpenVINONetwork(network, "3d_fullres fold 1", regions=False)
    for _ in range(2):
        assert torch.equal(engine(x)[0], network(x)[0])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3d_fullres fold 1: OpenVINO is not used, torch computes instead" in record.message
    assert "3×1×4×4" in record.message
    assert "at most 0.001 is allowed" in record.message
    assert text.replace("\\", "") in record.message
    assert compiled == [3], "it is not tried again"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was warned of; a command that ran before lets more be told."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_differs_less_than_tolerated_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs(monkeypatch, second_plus(0.003))  # a quarter of it in the probability
    x = torch.zeros(3, 1, 4, 4)
    (logits,) = OpenVINONetwork(Constant(), "tiny", regions=False)(x)
    assert not warnings_of(caplog)
    assert torch.equal(logits, second_plus(0.003)(Constant()(x)[0]))


@pytest.mark.parametrize("regions", [False, True])
def test_regions_are_compared_one_by_one(
    regions: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs(monkeypatch, lambda logits: logits + 1)  # the softmax stays what it is
    OpenVINONetwork(Constant(), "tiny", regions=regions)(torch.zeros(1, 1, 4, 4))
    assert bool(warnings_of(caplog)) == regions


def test_differences_are_those_of_probabilities() -> None:
    ours = torch.tensor([0.0, 0.0]).view(1, 2, 1)
    theirs = torch.tensor([0.0, 3.0]).log().clamp_min(-100).view(1, 2, 1)
    assert largest_difference(ours, theirs, regions=False) == pytest.approx(0.5)
    assert largest_difference(ours, ours + np.log(3), regions=True) == pytest.approx(0.25)
    assert largest_difference(ours, ours + np.log(3), regions=False) == pytest.approx(0)


def test_what_cannot_be_converted_is_told_but_exhausted_memory_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(1, 1, 4, 4)
    problem: Exception = ValueError("no such operator")

    def fail(*_: object) -> Program:
        raise problem

    monkeypatch.setattr(openvino_engine, "compile_network", fail)
    engine = OpenVINONetwork(Constant(), "tiny", regions=False)
    assert torch.equal(engine(x)[0], Constant()(x)[0])
    assert "tiny: OpenVINO is not used, torch computes instead: no such operator" in caplog.text
    problem = MemoryError("std::bad_alloc")
    with pytest.raises(MemoryError):
        OpenVINONetwork(Constant(), "tiny", regions=False)(x)


class Exotic(nn.Module):
    """Has an operator that OpenVINO lacks."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.special.bessel_j0(x),)


@installed
def test_an_operator_that_is_missing_leaves_the_network_to_torch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(OpenVINONetwork(Exotic(), "odd", regions=False)(x)[0], Exotic()(x)[0])
    assert "odd: OpenVINO is not used, torch computes instead" in caplog.text


def test_two_programs_serve_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = programs(monkeypatch)
    engine, network = OpenVINONetwork(Constant(), "tiny", regions=False), Constant()
    for size in (8, 3, 8, 15, 20, 2, 45):
        x = torch.randn(size, 1, 4, 4)
        assert torch.equal(engine(x)[0], network(x)[0])
    assert compiled == [8, 1, 20, 45]


@installed
def test_a_conversion_leaves_logging_and_warnings_as_they_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    root, before = logging.getLogger(), warnings.filters[:]
    state = (root.level, root.filters[:], root.handlers[:])
    for network in (ready(unet(2), 2), Exotic()):
        OpenVINONetwork(network, "tiny", regions=False)(torch.randn(1, 2, 16, 16))
    assert (root.level, root.filters, root.handlers) == state
    assert warnings.filters == before


@pytest.mark.parametrize("regions", [False, True])
def test_a_plan_of_regions_is_checked_as_one(tmp_path: Path, regions: bool) -> None:
    whole = tuple(Region(name=f"r{i}", values=(1, 4), value=i) for i in (1, 2, 3))
    plan = tiny_plan().model_copy(update={"regions": whole if regions else ()})
    save_model(tmp_path, plan)
    (engine,) = load_model(tmp_path, device=CPU, engine="openvino").network.children()
    assert [part._regions for part in engine.children()] == [regions]


def test_folds_and_stages_before_are_computed_by_the_engine(tmp_path: Path) -> None:
    low = tiny_configuration("3d_lowres")
    save_model(tmp_path, tiny_plan(low), folds=("0", "1"))
    model = load_model(tmp_path, device=CPU, engine="openvino")
    cascade = tiny_configuration().model_copy(update={"previous_stage": "3d_lowres"})
    later = Model(tmp_path, model.plan, cascade, ("0",), (), nn.Identity(), CPU, engine="openvino")
    for loaded in (model, load_previous(later)):
        assert isinstance(loaded.network, MeanOfLogits)
        engines = list(loaded.network.networks)
        assert len(engines) == 2
        assert all(isinstance(engine, OpenVINONetwork) for engine in engines)
        assert loaded.weights_gib == load_model(tmp_path, device=CPU).weights_gib
    assert not any(
        isinstance(part, OpenVINONetwork)
        for part in load_model(tmp_path, device=CPU).network.modules()
    )
