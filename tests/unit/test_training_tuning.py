"""What each strategy of transfer freezes, holds back, pulls and learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan
from torch import Tensor
from trainingjobs import CPU

from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.networks.low_rank import updated
from selfseg.records.network import DSN3D
from selfseg.records.optimization import (
    SGD,
    AdamW,
    Optimizer,
    Poly,
    Recipe,
    WarmupCosine,
    WarmupPoly,
)
from selfseg.records.plan import Configuration
from selfseg.records.transfer import L2SP, FineTune, FrozenEncoder, HeadFirst, LowRank, Transfer
from selfseg.training.job import TrainingJob
from selfseg.training.schedule import learning_rate_factor
from selfseg.training.start import open_source, start_
from selfseg.training.state import TrainState, create_state
from selfseg.training.step import final_weights, train_step
from selfseg.training.tuning import transfer_recipe
from selfseg.workspace.network import FoldFolder

DECAY = 0.1
PLAIN = Recipe(optimizer=SGD(momentum=0.0, nesterov=False, weight_decay=DECAY), schedule=Poly())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Trial:
    """A state that started from a model, and the weights that it had then."""

    state: TrainState
    before: dict[str, Tensor]
    configuration: Configuration

    def step(self, *, progress: float = 0.0, rate: float = 0.5) -> set[str]:
        """Make a step; return the names of weights that it changed."""
        held = {name: value.clone() for name, value in self.state.network.state_dict().items()}
        torch.manual_seed(self.state.step)
        batch = Batch(torch.randn(2, 1, 8, 16, 16), torch.randint(0, 3, (2, 8, 16, 16)))
        loss = build_loss(self.configuration.loss, tiny_plan().targets)
        self.state.tuning.train_(self.state.network)
        self.state.tuning.release_(self.state.network, progress)
        train_step(self.state, batch, loss, learning_rate=rate, gradient_clip=1e9)
        after = self.state.network.state_dict()
        return {name for name, value in held.items() if not torch.equal(value, after[name])}


def start(
    tmp_path: Path,
    strategy: Transfer,
    *,
    optimizer: Optimizer | None = None,
    configuration: Configuration | None = None,
) -> Trial:
    given = configuration or tiny_configuration()
    if not (tmp_path / "source").exists():
        save_model(tmp_path / "source", tiny_plan(given, dataset="other"))
    configuration = given.model_copy(update={"transfer": strategy})
    job = TrainingJob(
        plan=tiny_plan(configuration),
        configuration=configuration,
        fold="0",
        train_cases=(),
        validation_cases=(),
        data=tmp_path,
        output=FoldFolder(tmp_path / "fold"),
        device=CPU,
        start=open_source(tmp_path / "source"),
    )
    recipe = PLAIN.model_copy(update={"optimizer": optimizer} if optimizer else {})
    state = create_state(
        configuration,
        recipe,
        channels=1,
        outputs=3,
        seed=0,
        device=CPU,
        start_=lambda network: start_(network, job),
    )
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    return Trial(state, before, configuration)


HEADS = {"heads.0.weight", "heads.0.bias"}


def test_fine_tuning_changes_every_weight(tmp_path: Path) -> None:
    trial = start(tmp_path, FineTune())
    assert trial.step() == set(trial.before)


@pytest.mark.parametrize(
    "optimizer", [PLAIN.optimizer, SGD(), AdamW()], ids=["plain", "sgd", "adam"]
)
def test_heads_learn_alone_until_their_share_is_over(tmp_path: Path, optimizer: Optimizer) -> None:
    trial = start(tmp_path, HeadFirst(head_share=0.2), optimizer=optimizer)
    assert trial.step(progress=0.0) == HEADS
    assert trial.step(progress=0.19) == HEADS
    assert trial.step(progress=0.2) == set(trial.before)


def test_the_encoder_learns_slower_after_the_heads(tmp_path: Path) -> None:
    slow, full = start(tmp_path, HeadFirst(encoder_rate=0.25)), start(tmp_path, FineTune())
    slow.step(progress=1.0)
    full.step()
    for name, before in full.before.items():
        moved = [trial.state.network.state_dict()[name] - before for trial in (slow, full)]
        factor = 0.25 if name.startswith("encoder.") else 1.0
        torch.testing.assert_close(moved[0], factor * moved[1], rtol=1e-3, atol=1e-6)


def test_a_frozen_encoder_never_changes(tmp_path: Path) -> None:
    trial = start(tmp_path, FrozenEncoder(), optimizer=AdamW(weight_decay=0.5))
    changed = trial.step() | trial.step()
    assert changed == {name for name in trial.before if not name.startswith("encoder.")}


def test_statistics_of_a_frozen_encoder_do_not_drift(tmp_path: Path) -> None:
    network = DSN3D(features=(2, 4, 4), convs=(1, 1, 1))
    configuration = tiny_configuration().model_copy(update={"network": network})
    trial = start(tmp_path, FrozenEncoder(), configuration=configuration)
    assert any("running_mean" in name for name in trial.before)
    assert not [name for name in trial.step() if name.startswith("encoder.")]
    free = start(tmp_path, FineTune(), configuration=configuration)
    assert "encoder.0.1.running_mean" in free.step()


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_pull_is_alpha_times_the_way_back(tmp_path: Path, alpha: float) -> None:
    """Two plain steps of SGD by hand: w ← w − r·(g + α·(w − w₀)), heads with their decay."""
    trial = start(tmp_path, L2SP(alpha=alpha))
    network, rate = trial.state.network, 0.5
    trial.step(rate=rate)
    moved = {name: value.detach().clone() for name, value in network.named_parameters()}
    trial.step(rate=rate)
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        gradient = weight.grad  # with the pull in it
        decay = DECAY * moved[name] if name in HEADS else 0.0
        expected = moved[name] - rate * (gradient + decay)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)
    plain = start(tmp_path, L2SP(alpha=0.0))
    plain.state.network.load_state_dict(moved)
    plain.state.step = 1
    plain.step(rate=rate)
    for name, weight in plain.state.network.named_parameters():
        own = dict(network.named_parameters())[name]
        assert weight.grad is not None
        assert own.grad is not None
        pull = 0.0 if name in HEADS else alpha * (moved[name] - trial.before[name])
        torch.testing.assert_close(own.grad, weight.grad + pull, rtol=1e-4, atol=1e-6)


def test_low_rank_updates_start_at_the_source_and_learn(tmp_path: Path) -> None:
    trial = start(tmp_path, LowRank(rank=2))
    network = trial.state.network
    image = torch.randn(1, 1, 8, 16, 16)
    network.eval()
    runnable = updated(network).eval()
    with torch.no_grad():
        torch.testing.assert_close(runnable(image)[0], network(image)[0])
    plain = {name for name in trial.before if not name.startswith("low_rank.")}
    changed = trial.step() | trial.step()
    assert changed & plain == HEADS
    assert changed - plain == {name for name in trial.before if name.startswith("low_rank.")}


def test_merged_updates_compute_the_same_and_have_low_rank(tmp_path: Path) -> None:
    trial = start(tmp_path, LowRank(rank=2))
    for _ in range(3):
        trial.step()
    merged = final_weights(trial.state)
    assert merged.keys() == {n for n in trial.before if not n.startswith("low_rank.")}
    image = torch.randn(1, 1, 8, 16, 16)
    runnable = updated(trial.state.network).eval()
    with torch.no_grad():
        ours = runnable(image)[0]
        fresh = start(tmp_path, FineTune()).state.network
        fresh.load_state_dict(merged)
        torch.testing.assert_close(fresh.eval()(image)[0], ours, rtol=1e-3, atol=1e-5)
    name = "encoder.1.0.conv.weight"
    change = (merged[name] - trial.before[name]).flatten(1)
    values = torch.linalg.svdvals(change)
    assert values[1] > 1e-6
    assert values[2] < 1e-3 * values[1]


def test_new_stages_learn_under_every_strategy(tmp_path: Path) -> None:
    deeper = tiny_configuration()
    save_model(tmp_path / "source", tiny_plan(deeper, dataset="other"))
    network = deeper.network.model_copy(
        update={
            "features": (4, 8, 12),
            "kernels": ((3, 3, 3),) * 3,
            "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
            "convs_encoder": (1, 1, 1),
            "convs_decoder": (1, 1),
        }
    )
    configuration = deeper.model_copy(update={"network": network})
    for strategy in (HeadFirst(head_share=0.5), FrozenEncoder(), LowRank(rank=1)):
        trial = start(tmp_path, strategy, configuration=configuration)
        assert "encoder.2.0.conv.weight" in trial.step()


def test_the_recipe_warms_up_to_the_strategy_s_rate() -> None:
    plain = Recipe(optimizer=SGD(), schedule=Poly())
    changed = transfer_recipe(plain, FineTune(), is_short=False)
    assert changed.optimizer.learning_rate == pytest.approx(1e-3)
    assert changed.schedule == WarmupPoly(warmup=0.05, exponent=0.9)
    curve = [learning_rate_factor(changed.schedule, p / 100) for p in range(101)]
    assert curve[:6] == pytest.approx([0.01, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert curve[24] == pytest.approx((1 - 19 / 95) ** 0.9)
    assert curve[100] == 0
    given = Recipe(optimizer=AdamW(), schedule=WarmupCosine())
    short = transfer_recipe(given, FineTune(warmup=0.2, short_rate=0.5), is_short=True)
    assert short.optimizer.learning_rate == AdamW().learning_rate / 2
    assert short.schedule == WarmupCosine(warmup=0.2)
