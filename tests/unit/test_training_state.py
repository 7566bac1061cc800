"""The state of a training: what it compiles, what trials leave behind, what is restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from tinymodel import tiny_configuration
from torch import Tensor, nn
from torch._dynamo import config
from torch._dynamo.testing import CompileCounter
from trainingjobs import CPU, LONG

from selfseg.networks.build import build_network
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.training import compiling, trials
from selfseg.training.checkpoints import OPTIMIZER, optimizer_tensors, restore_optimizer
from selfseg.training.compiling import Called, Trial, Way
from selfseg.training.job import Course
from selfseg.training.state import step_sizes
from selfseg.training.trials import Forward, seconds_per_step

LAST = CHANNELS_LAST[3]
SHAPES = ((1, 1, 4, 4, 4),)
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


def proven(*shapes: tuple[int, ...]) -> Forward:
    network = build_network(tiny_configuration(patch=(8, 8, 8)).network, channels=1, outputs=2)
    set_layout(network, LAST)
    return compiling._compiled(Trial(network, shapes, CPU), Way(LAST))


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
    [(2, 0, 0, [2]), (2, 1, 0, [2, 1]), (2, 1, 1, [2, 1]), (3, 1, 1, [3, 2, 1])],
)
def test_whole_batches_and_their_parts_are_compiled(
    batch: int, borrowed: int, apart: int, sizes: list[int]
) -> None:
    assert step_sizes(batch, borrowed, apart) == sizes


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
    made = compiling._compiled(Trial(failing, SHAPES, CPU), Way(LAST))
    assert made is failing
    assert "no compiler here" in caplog.text
    full = Normed(RuntimeError(NO_ENGINE))
    with pytest.raises(RuntimeError, match="engine"):
        compiling._compiled(Trial(full, SHAPES, CPU), Way(LAST))
    assert full.norm.running_mean is not None
    assert not full.norm.running_mean.any()


def test_trials_of_layouts_move_no_statistic() -> None:
    network = Normed()
    seconds_per_step(network, (1, 1, 4, 4, 4), CPU, LAST)
    assert network.norm.running_mean is not None
    assert not network.norm.running_mean.any()
    assert all(weight.grad is None for weight in network.parameters())


def test_a_layout_that_does_not_fit_is_infinitely_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)

    def timed(network: nn.Module) -> float:
        return compiling._timed(Trial(network, SHAPES, CPU), Way(LAST)).seconds

    assert timed(Normed(RuntimeError(NO_ENGINE))) == float("inf")
    with pytest.raises(RuntimeError, match="sizes"):
        timed(Normed(RuntimeError("sizes do not match")))


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


class Compiled:
    """Stands for what the compiler makes of a network; says how long a step of it takes."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, seconds: dict[Way, float | Exception]
    ) -> None:
        self.made: list[Way] = []
        self.timed: list[object] = []
        self.seconds = seconds
        monkeypatch.setattr(compiling, "_compiled", self.compile)
        monkeypatch.setattr(compiling, "seconds_per_step", self.time)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def compile(self, trial: Trial, way: Way) -> Forward:
        assert next(trial.network.parameters()).is_contiguous(memory_format=way.layout)
        self.made.append(way)
        if isinstance(error := self.seconds[way], Exception):
            raise error
        return lambda x: trial.network(x)

    def time(self, *arguments: object, forward: object = None) -> float:
        self.timed.append(forward)
        assert arguments[3] == self.made[-1].layout
        seconds = self.seconds[self.made[-1]]
        assert isinstance(seconds, float)
        return seconds


SHAPE = (1, 2, 4, 4, 4)
FULL = RuntimeError(NO_ENGINE)
L, P = Way(LAST), Way(torch.contiguous_format)
LG, PG = Way(LAST, graphs=True), Way(torch.contiguous_format, graphs=True)


@pytest.mark.parametrize(
    ("seconds", "run_s", "compiled", "chosen"),
    [
        ({L: 0.2}, 60.0, [L], L),  # too short a run for a second compilation
        ({L: 0.2, LG: 0.1}, 700.0, [L, LG], LG),
        ({L: 0.2, LG: 0.195}, 700.0, [L, LG, L], L),  # not worth the memory
        ({L: 0.2, LG: FULL}, 700.0, [L, LG, L], L),
        ({L: 0.2, P: 0.1, PG: 0.05}, 1e5, [L, P, PG], PG),
        ({L: 0.1, P: 0.2, LG: 0.2}, 1e5, [L, P, LG, L], L),
        ({L: FULL, P: 0.2}, 60.0, [L, P], P),
        ({L: 0.1, P: FULL, LG: 0.05}, 1e5, [L, P, LG], LG),
    ],
)
def test_the_fastest_way_of_the_compiled_network_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Way, float | Exception],
    run_s: float,
    compiled: list[Way],
    chosen: Way,
) -> None:
    network, tried = nn.Conv3d(2, 4, 3), Compiled(monkeypatch, seconds)

    def length(step_s: float) -> float:
        return run_s if step_s < float("inf") else float("inf")

    called = compiling.compile_for(Trial(network, (SHAPE,), CPU), None, run_s=length)
    assert tried.made == compiled
    assert all(forward is not None and forward is not network for forward in tried.timed)
    assert called.way == chosen
    assert called.seconds == seconds[chosen]
    assert network.weight.is_contiguous(memory_format=chosen.layout)


@pytest.mark.parametrize("run_s", [0.0, 1800.0, 1e5])
def test_a_run_of_a_given_time_takes_the_layout_that_fits(
    monkeypatch: pytest.MonkeyPatch, run_s: float
) -> None:
    """Its length says nothing of a step that does not fit."""
    tried = Compiled(monkeypatch, {L: FULL, P: 0.2, PG: FULL})
    trial = Trial(nn.Conv3d(2, 4, 3), (SHAPE,), CPU)
    assert compiling.compile_for(trial, None, run_s=lambda _: run_s).way == P
    assert tried.made[:2] == [L, P]


def test_graphs_that_fail_when_they_are_replayed_are_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> float:
        if tried.made[-1].graphs:
            raise ValueError("no graph of this")
        return 0.1

    tried = Compiled(monkeypatch, {L: 0.1, LG: 0.05})
    monkeypatch.setattr(compiling, "seconds_per_step", fail)
    trial = Trial(nn.Conv3d(2, 4, 3), (SHAPE,), CPU)
    assert compiling.compile_for(trial, LAST, run_s=lambda _: 1e9).way == L
    assert "no graph of this" in caplog.text


def test_graphs_that_cannot_be_made_are_infinitely_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    network, made = nn.Conv3d(2, 4, 3), []

    def compile_(trial: Trial, way: Way) -> Forward:
        made.append(way)
        return trial.network if way.graphs else lambda x: trial.network(x)

    monkeypatch.setattr(compiling, "_compiled", compile_)
    monkeypatch.setattr(compiling, "seconds_per_step", lambda *_, **__: 0.1)
    called = compiling.compile_for(Trial(network, (SHAPE,), CPU), LAST, run_s=lambda _: 1e9)
    assert (called.way, made) == (L, [L, LG, L])
    assert called.forward is not network


def test_steps_that_call_the_network_twice_have_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Compiled(monkeypatch, {L: 0.2})
    shapes = (SHAPE, (2, *SHAPE[1:]))
    called = compiling.compile_for(
        Trial(nn.Conv3d(2, 4, 3), shapes, CPU), LAST, run_s=lambda _: 1e9
    )
    assert (called.way, tried.made) == (L, [L])


@pytest.mark.parametrize("run_s", [0.0, 1e9])
def test_what_torch_compiles_is_timed_and_computes_as_the_network(
    monkeypatch: pytest.MonkeyPatch, run_s: float
) -> None:
    counter, shape = counted(monkeypatch), (2, 1, 8, 8, 8)
    network = build_network(tiny_configuration(patch=(8, 8, 8)).network, channels=1, outputs=2)
    trial = Trial(network, (shape,), CPU)
    called = compiling.compile_for(trial, None, run_s=lambda _: run_s)
    assert called.forward is not network
    made = counter.frame_count
    image = torch.randn(shape).contiguous(memory_format=called.way.layout)
    torch.testing.assert_close(called.forward(image)[0], network(image)[0])
    assert counter.frame_count == made > 0


def test_scores_are_made_with_the_compiled_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled before the first epoch, for whole batches; modes of modules stay as they were."""
    counter, shapes = counted(monkeypatch), ((2, 1, 8, 8, 8), (1, 1, 8, 8, 8))
    network = build_network(tiny_configuration(patch=(8, 8, 8)).network, channels=1, outputs=2)
    next(network.children()).eval()
    modes = [module.training for module in network.modules()]
    trial = Trial(network, shapes, CPU)
    called = compiling.compile_for(trial, LAST, run_s=lambda _: 0.0)
    scoring = compiling.scoring_for(trial, called)
    assert scoring is called.forward
    assert [module.training for module in network.modules()] == modes
    made = counter.frame_count
    network.eval()
    image = torch.randn(shapes[0]).contiguous(memory_format=LAST)
    with torch.no_grad():
        torch.testing.assert_close(scoring(image)[0], network(image)[0])
    assert counter.frame_count == made


def test_scores_need_no_compiler() -> None:
    def fail(_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("no compiler without gradients")

    network = Normed()
    trial = Trial(network, SHAPES, CPU)
    assert compiling.scoring_for(trial, Called(fail, L, 0.1)) is network
    assert compiling.scoring_for(trial, Called(network, L, 0.1)) is network
    assert network.training


@pytest.mark.parametrize(("kind", "calls"), [("cuda", ["reset", "empty"]), ("cpu", [])])
def test_what_is_compiled_gives_its_memory_back(
    monkeypatch: pytest.MonkeyPatch, kind: str, calls: list[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: made.append("reset"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: made.append("empty"))
    compiling.forget_compiled(torch.device(kind))
    assert made == calls


def test_memory_that_runs_out_in_every_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tried = nn.Conv3d(2, 4, 3), Compiled(monkeypatch, {L: FULL, P: FULL})
    with pytest.raises(RuntimeError, match="engine"):
        compiling.compile_for(
            Trial(network, (SHAPE,), CPU), None, run_s=lambda step_s: 1e9 * step_s
        )
    assert tried.timed == []


def test_a_resumed_run_keeps_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Compiled(monkeypatch, {P: 0.2, L: 0.1, PG: 0.1})
    trial = Trial(nn.Conv3d(2, 4, 3), (SHAPE,), CPU)
    called = compiling.compile_for(trial, torch.contiguous_format, run_s=lambda _: 1e9)
    assert (called.way, tried.made) == (PG, [P, PG])


def test_without_a_compiler_both_layouts_are_timed_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, timed = Normed(), []

    def time(*arguments: object, **_: object) -> float:
        timed.append(arguments[3])
        return 0.1 if arguments[3] == P.layout else 0.2

    monkeypatch.setattr(compiling, "_compiled", lambda trial, _: trial.network)
    for module in (compiling, trials):
        monkeypatch.setattr(module, "seconds_per_step", time)
    meta = torch.device("meta")  # no CPU, where the layout is fixed
    called = compiling.compile_for(Trial(network, SHAPES, meta), None, run_s=lambda _: 0.0)
    assert (called.forward, called.way) == (network, P)
    assert timed == [LAST, P.layout, LAST]


def test_the_length_of_a_run_follows_from_its_steps_or_is_given() -> None:
    course = Course(kind="long", recipe=LONG, steps_per_epoch=250, total_steps=1000, time_s=None)
    assert course.run_s(0.5) == 500.0
    assert replace(course, total_steps=None, time_s=60.0).run_s(0.5) == 60.0
