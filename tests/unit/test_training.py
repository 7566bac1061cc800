"""Training: schedule, one step, averaged weights, the loop, resume bit for bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinymodel import LABELS
from trainingjobs import CPU, LONG, SHORT, make_job, stop_at_step

from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.networks.weights import load_weights
from selfseg.records.optimization import Optimization, Poly, Recipe, WarmupCosine
from selfseg.training import history
from selfseg.training.job import Course, plan_course
from selfseg.training.schedule import choose_recipe, learning_rate_factor
from selfseg.training.state import create_state
from selfseg.training.step import final_weights, train_step, update_average
from selfseg.training.train import train
from selfseg.training.trials import seconds_per_step
from selfseg.workspace.network import FoldFolder


@pytest.fixture(autouse=True)
def few_threads() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(1, 0.0099910), (250, 0.0077189), (500, 0.0053589), (999, 1.99526e-5)]
)
def test_poly_gives_the_rates_of_nnunet(epoch: int, rate: float) -> None:
    assert 0.01 * learning_rate_factor(Poly(), epoch / 1000) == pytest.approx(rate, rel=1e-4)


def test_warm_up_rises_to_one_and_the_cosine_ends_at_zero() -> None:
    curve = [learning_rate_factor(WarmupCosine(warmup=0.1), p / 100) for p in range(101)]
    assert curve[0] > 0
    assert curve[10] == pytest.approx(1)
    assert curve[55] == pytest.approx(0.5)
    assert curve[100] == pytest.approx(0, abs=1e-12)
    assert curve[:11] == sorted(curve[:11])
    assert curve[10:] == sorted(curve[10:], reverse=True)


def test_recipe_is_chosen_by_expected_steps() -> None:
    options = Optimization(recipe=LONG, short_recipe=SHORT, short_below_steps=100)
    assert choose_recipe(options, 99.9)[0] is SHORT
    assert choose_recipe(options, 100)[0] is LONG


def test_one_step_of_a_two_layer_network_equals_sgd_by_hand(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU)
    before = copy.deepcopy(state.network)
    loss = build_loss(job.configuration.loss, job.plan.targets)
    batch = Batch(torch.randn(2, 1, 8, 8, 8), torch.randint(0, 3, (2, 8, 8, 8)))
    value = train_step(state, batch, loss, learning_rate=0.02, gradient_clip=1e9)
    expected = loss(before(batch.image), batch.label)
    expected.backward()
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-5)
    for old, new in zip(before.parameters(), state.network.parameters(), strict=True):
        assert old.grad is not None
        gradient = old.grad + 3e-5 * old.detach()
        step = 0.02 * (gradient + 0.99 * gradient)  # Nesterov's first step
        torch.testing.assert_close(new.detach(), old.detach() - step, rtol=1e-4, atol=1e-6)


def test_gradient_is_clipped(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU)
    batch = Batch(torch.randn(2, 1, 8, 8, 8), torch.randint(0, 3, (2, 8, 8, 8)))
    loss = build_loss(job.configuration.loss, job.plan.targets)
    train_step(state, batch, loss, learning_rate=0.0, gradient_clip=1e-3)
    squares = [p.grad.square().sum() for p in state.network.parameters() if p.grad is not None]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(1e-3, rel=1e-2)


def test_average_follows_the_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, SHORT, channels=1, outputs=3, seed=0, device=CPU)
    name, weight = next(iter(state.network.named_parameters()))
    start = weight.detach().clone()
    weight.data += 1
    state.step = 1
    update_average(state)  # decay (1 + 1) / (10 + 1)
    torch.testing.assert_close(state.average[name], start + 9 / 11)
    assert torch.equal(final_weights(state)[name], state.average[name])


def test_training_learns_and_leaves_a_model_history_and_no_checkpoint(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=20)
    fold = train(job)
    lines = history.read(job.output.history)
    assert [line.epoch for line in lines] == list(range(1, 21))
    assert lines[-1].loss < lines[0].loss - 0.05
    assert all(len(line.dice) == 2 and line.validation_loss is not None for line in lines)
    assert (fold.epochs, fold.steps) == (20, 80)
    assert fold.mirror_axes == ()  # the short recipe does not mirror
    assert job.output.weights.is_file()
    assert not job.output.checkpoint.exists()


@pytest.mark.parametrize("recipe", [LONG, SHORT])
@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_resumed_training_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, recipe: Recipe
) -> None:
    options = Optimization(recipe=recipe, short_recipe=recipe, short_below_steps=100)
    plain = make_job(tmp_path, "plain")
    configuration = plain.configuration.model_copy(update={"optimization": options})
    plain = replace(plain, configuration=configuration)
    train(plain)
    killed = replace(plain, output=FoldFolder(tmp_path / "killed"))
    stop_at_step(stop_at, killed, monkeypatch, save_every=1)  # also within epochs
    fold = train(killed)
    assert fold.steps == 12
    assert killed.output.weights.read_bytes() == plain.output.weights.read_bytes()
    lines = [history.read(job.output.history) for job in (plain, killed)]
    seen = [[(r.epoch, r.step, r.learning_rate, r.loss, r.dice) for r in rows] for rows in lines]
    assert seen[0] == seen[1]


def test_weights_depend_on_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        make_job(tmp_path, name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for job in (first, again, other):
        train(job)
    assert first.output.weights.read_bytes() == again.output.weights.read_bytes()
    assert first.output.weights.read_bytes() != other.output.weights.read_bytes()


def test_timed_training_ends_in_time_and_picks_the_recipe_by_speed(tmp_path: Path) -> None:
    job = make_job(tmp_path, time_s=2.0, epochs=None, steps_per_epoch=None)
    course = plan_course(job)
    assert course.progress(0, 1.0) == 0.5
    assert course.is_over(1, 2.0)
    assert not course.is_over(0, 2.0)  # a model has at least one step
    fold = train(job)
    assert 1.9 <= fold.seconds <= 6.0
    assert history.read(job.output.history)[-1].learning_rate < 1e-3


def test_history_forgets_epochs_that_are_made_again_and_a_cut_line(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    train(job)
    path = job.output.history
    path.write_text(path.read_text()[:-20])
    assert [line.epoch for line in history.read(path)] == [1, 2]
    history.forget_after(1, path)
    assert [line.epoch for line in history.read(path)] == [1]


def test_speed_measurement_leaves_no_gradient_and_no_change(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU)
    before = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    shape = (2, 1, 8, 8, 8)
    assert seconds_per_step(state.network, shape, CPU, torch.channels_last_3d) > 0
    for name, parameter in state.network.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_model_loads_with_the_saved_weights(tmp_path: Path) -> None:
    from selfseg.inference.model import load_model
    from selfseg.records import serial
    from selfseg.workspace.dataset import DatasetFolder

    job = make_job(tmp_path)
    folder = DatasetFolder(tmp_path / "workspace" / "phantom")
    job = replace(job, output=folder.fold("3d_fullres", "0"))
    serial.save(job.plan, folder.plan)
    train(job)
    model = load_model(folder.path, device=CPU)
    assert model.outputs == len(LABELS) + 1
    stored = load_weights(job.output.weights)
    loaded = {k.split(".", 2)[-1]: v for k, v in model.network.state_dict().items()}
    assert any(torch.equal(stored["heads.0.weight"], value) for value in loaded.values())


def test_speed_measurement_stops_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU)
    passes: list[int] = []
    state.network.register_forward_hook(lambda *_: passes.append(1))
    for limit_s, expected in ((0.0, 1), (1e9, 4)):
        passes.clear()
        seconds_per_step(
            state.network, (2, 1, 8, 8, 8), CPU, torch.channels_last_3d, limit_s=limit_s
        )
        assert len(passes) == expected


def test_learning_rate_of_a_timed_run_follows_the_clock_in_every_step() -> None:
    by_steps = Course(kind="long", recipe=LONG, steps_per_epoch=4, total_steps=12, time_s=None)
    assert [by_steps.schedule_progress(step, 0.0) for step in (0, 3, 4, 11)] == pytest.approx(
        [0, 0, 1 / 3, 2 / 3]
    )
    every = replace(by_steps, recipe=SHORT)
    assert every.schedule_progress(3, 0.0) == pytest.approx(3 / 12)
    timed = replace(by_steps, total_steps=None, time_s=10.0)
    assert timed.schedule_progress(3, 9.0) == pytest.approx(0.9)


def test_overflow_in_float16_skips_the_step_and_halves_the_scale(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=CPU)
    state.dtype = torch.float16
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = build_loss(job.configuration.loss, job.plan.targets)
    before = [p.detach().clone() for p in state.network.parameters()]
    good = Batch(torch.randn(2, 1, 8, 8, 8), torch.randint(0, 3, (2, 8, 8, 8)))
    broken = replace(good, image=good.image * 1e30)
    value = train_step(state, broken, loss, learning_rate=0.1, gradient_clip=12.0)
    assert not value.isfinite()
    assert state.scaler.get_scale() == 512.0
    after = list(state.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert train_step(state, good, loss, learning_rate=0.1, gradient_clip=12.0).isfinite()
    assert not any(torch.equal(a, b) for a, b in zip(after[:1], before[:1], strict=True))
