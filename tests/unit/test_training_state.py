"""The state of a training: what it compiles, what trials leave behind, what is restored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tinymodel import tiny_configuration
from torch import Tensor, nn
from torch._dynamo import config
from torch._dynamo.testing import CompileCounter
from trainingjobs import CPU

from selfseg.networks.build import build_network
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.training import state as training_state
from selfseg.training.checkpoints import OPTIMIZER, optimizer_tensors, restore_optimizer
from selfseg.training.state import seconds_per_step

LAST = CHANNELS_LAST[3]
NO_ENGINE = "GET was unable to find an engine to execute this computation"


class Normed(nn.Module):
    """A network with running statistics, whose pass may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.error = nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), error

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raise the error after the statistics moved, or return the map."""
        out = self.norm(self.conv(x) + 3)
        if self.error is not None:
            raise self.error
        return (out,)


def counted(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Let torch.compile trace, count the graphs, and run them as they are."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def proven(*shapes: tuple[int, ...]) -> training_state.Forward:
    network = build_network(tiny_configuration(patch=(8, 8, 8)).network, channels=1, outputs=2)
    set_layout(network, LAST)
    return training_state._compiled(network, shapes, CPU, LAST, None)


def test_steps_find_everything_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own and borrowed samples, of one channel, in the layout that a step brings them to."""
    counter = counted(monkeypatch)
    shapes = [(batch, 1, 8, 8, 8) for batch in (2, 3, 4)]
    proven(shapes[0])
    one = counter.frame_count
    forward = proven(*shapes)
    made = counter.frame_count
    assert made == one + 3 * one  # each with fixed sizes
    for shape in shapes:
        forward(torch.stack(list(torch.randn(shape))).contiguous(memory_format=LAST))
    assert counter.frame_count == made


@pytest.mark.parametrize(
    ("batch", "borrowed", "apart", "sizes"),
    [(2, 0, 0, [2]), (2, 1, 0, [1, 2]), (2, 1, 1, [1, 2]), (3, 1, 1, [1, 2, 3])],
)
def test_whole_batches_and_their_parts_are_compiled(
    batch: int, borrowed: int, apart: int, sizes: list[int]
) -> None:
    assert training_state.step_sizes(batch, borrowed, apart) == sizes


def test_every_network_of_a_process_is_compiled_for_its_own_patch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = counted(monkeypatch)
    made = []
    with config.patch(recompile_limit=2):
        for width in (8, 16, 24, 32):
            before = counter.frame_count
            proven((1, 1, 8, 8, width))
            made.append(counter.frame_count - before)
    assert made[0] > 0
    assert len(set(made)) == 1


def test_a_network_that_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Normed(RuntimeError("no compiler here"))
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    made = training_state._compiled(failing, [(1, 1, 4, 4, 4)], CPU, LAST, None)
    assert made is failing
    assert "no compiler here" in caplog.text
    full = Normed(RuntimeError(NO_ENGINE))
    with pytest.raises(RuntimeError, match="engine"):
        training_state._compiled(full, [(1, 1, 4, 4, 4)], CPU, LAST, None)
    assert full.norm.running_mean is not None
    assert not full.norm.running_mean.any()


def test_trials_of_layouts_move_no_statistic() -> None:
    network = Normed()
    seconds_per_step(network, (1, 1, 4, 4, 4), CPU, LAST)
    assert network.norm.running_mean is not None
    assert not network.norm.running_mean.any()
    assert all(weight.grad is None for weight in network.parameters())


def test_a_layout_that_does_not_fit_is_infinitely_slow() -> None:
    timed = partial(training_state._seconds_or_too_large, device=CPU, layout=LAST)
    assert timed(Normed(RuntimeError(NO_ENGINE)), (1, 1, 4, 4, 4)) == float("inf")
    with pytest.raises(RuntimeError, match="sizes"):
        timed(Normed(RuntimeError("sizes do not match")), (1, 1, 4, 4, 4))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_a_restored_optimizer_has_the_layout_of_its_weights(
    kind: Callable[..., torch.optim.Optimizer],
) -> None:
    conv = nn.Conv3d(4, 4, 3)
    set_layout(conv, LAST)
    former = kind(conv.parameters(), lr=0.1)
    conv(torch.randn(1, 4, 5, 5, 5).contiguous(memory_format=LAST)).square().mean().backward()
    former.step()
    kept = {
        name.removeprefix(OPTIMIZER): value.contiguous()
        for name, value in optimizer_tensors(former).items()
    }
    fresh = kind(conv.parameters(), lr=0.1)
    restore_optimizer(fresh, kept)
    for weight in conv.parameters():
        assert fresh.state[weight].keys() == former.state[weight].keys()
        for name, value in fresh.state[weight].items():
            assert torch.equal(value, former.state[weight][name])
            if value.shape == weight.shape:
                assert value.stride() == weight.stride()
