"""Starting from a model where the network has a second source: streams, a second encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan
from torch import nn
from trainingdata import make_folder
from trainingjobs import CPU, LONG, make_job

from selfseg.errors import ModelError
from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.networks.dual_channel import AuxiliaryStream
from selfseg.networks.low_rank import UpdatedNetwork
from selfseg.networks.weights import load_weights, save_weights
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
from selfseg.records.network import DualChannel, GatedEncoders, JointStreams, UNet, plain_part
from selfseg.records.plan import Configuration
from selfseg.records.transfer import (
    L2SP,
    FineTune,
    FrozenEncoder,
    HeadFirst,
    LowRank,
    Transfer,
    TransferReport,
)
from selfseg.training.borrowing import start_borrowing
from selfseg.training.job import AuxiliaryData, TrainingJob
from selfseg.training.second_encoder import refuse_two_starts
from selfseg.training.start import open_source, start_
from selfseg.training.state import TrainState, create_state
from selfseg.training.step import train_step
from selfseg.training.train import train

Variant = GatedEncoders | JointStreams
GATED, FROZEN = GatedEncoders(channels=1), GatedEncoders(channels=1, frozen=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def dual(variant: Variant, strategy: Transfer | None = None) -> Configuration:
    """Return the tiny configuration with a second source."""
    plain = tiny_configuration()
    backbone = plain_part(plain.network)
    assert backbone is not None
    network = DualChannel(backbone=backbone, variant=variant)
    return plain.model_copy(update={"network": network, "transfer": strategy or FineTune()})


def started(
    tmp_path: Path, configuration: Configuration, *, there: Configuration | None = None
) -> tuple[TrainState, TrainingJob]:
    """Return a state that has started from a saved model; `there` is its configuration."""
    folder = save_model(
        tmp_path / "source", tiny_plan(there or tiny_configuration(), dataset="other")
    )
    path = folder.fold("3d_fullres", "0").weights
    save_weights({name: value + 0.25 for name, value in load_weights(path).items()}, path)
    job = make_job(tmp_path)
    plan = tiny_plan(configuration)
    start = open_source(tmp_path / "source")
    job = replace(job, plan=plan, configuration=configuration, start=start)
    state = create_state(
        configuration,
        LONG,
        channels=1,
        outputs=3,
        seed=0,
        device=CPU,
        start_=lambda network: start_(network, job),
        stream_outputs=3,
    )
    return state, job


def second_data_set(folder: Path) -> AuxiliaryData:
    """Write two cases of another data set with the same labels."""
    cases = make_folder(folder, cases=2, shape=(12, 16, 16), seed=9)
    return AuxiliaryData(
        options=Auxiliary(name="other"),
        targets=tiny_plan().targets,
        cases=cases,
        data=folder,
        data_digest="x",
    )


def stream(network: nn.Module) -> AuxiliaryStream:
    found = network.get_submodule("auxiliary_stream")
    assert isinstance(found, AuxiliaryStream)
    return found


@pytest.mark.parametrize("own_heads", [False, True])
def test_norms_of_both_data_sets_start_at_the_model_s(tmp_path: Path, *, own_heads: bool) -> None:
    state, job = started(tmp_path, dual(JointStreams(own_heads=own_heads)))
    assert job.start is not None
    weights = job.start.weights
    norms = {n: v for n, v in stream(state.network).weights().items() if "heads" not in n}
    assert norms
    for name, values in norms.items():
        assert torch.equal(values, weights[name])
        assert not torch.equal(values, torch.ones_like(values))  # where a random norm starts
    report = serial.load(TransferReport, job.output.transfer)
    assert {note.name for note in report.fresh} == {
        name for name, _ in state.network.named_parameters() if "heads/" in name
    }


def test_a_model_that_borrowed_starts_a_plain_network(tmp_path: Path) -> None:
    _, job = started(tmp_path, tiny_configuration(), there=dual(JointStreams()))
    report = serial.load(TransferReport, job.output.transfer)
    assert (report.loaded_share, report.fresh, report.skipped) == (1.0, (), ())


def test_both_encoders_start_at_that_of_a_model_with_one(tmp_path: Path) -> None:
    state, job = started(tmp_path, dual(GATED))
    weights = dict(state.network.named_parameters())
    assert job.start is not None
    names = [name for name in job.start.weights if name.startswith("encoder.")]
    assert names
    for name in names:
        assert torch.equal(weights[name], job.start.weights[name])
        assert torch.equal(weights[f"second.{name}"], job.start.weights[name])
    report = serial.load(TransferReport, job.output.transfer)
    assert {note.name.split(".")[1] for note in report.fresh} == {"fusions"}


def test_a_second_encoder_that_a_model_does_not_fill_is_not_frozen(tmp_path: Path) -> None:
    """The model has two stages, the network three: what is deeper would stay random."""
    backbone = plain_part(tiny_configuration().network)
    assert isinstance(backbone, UNet)
    deeper = backbone.model_copy(
        update={
            "features": (4, 8, 8),
            "kernels": ((3, 3, 3),) * 3,
            "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
            "convs_encoder": (1,) * 3,
            "convs_decoder": (1,) * 2,
        }
    )

    def with_variant(variant: GatedEncoders) -> Configuration:
        network = DualChannel(backbone=deeper, variant=variant)
        return tiny_configuration().model_copy(update={"network": network})

    started(tmp_path / "learns", with_variant(GATED))
    with pytest.raises(ModelError, match=r"would keep random weights: second\.encoder\.2\."):
        started(tmp_path / "frozen", with_variant(FROZEN))


@pytest.mark.parametrize("there", [dual(FROZEN), tiny_configuration()], ids=["alike", "plain"])
@pytest.mark.parametrize(
    "strategy",
    [FineTune(), HeadFirst(head_share=0.2), FrozenEncoder(), L2SP(), LowRank(rank=1)],
    ids=lambda s: s.kind,
)
def test_no_strategy_trains_a_frozen_second_encoder(
    tmp_path: Path, strategy: Transfer, there: Configuration
) -> None:
    configuration = dual(FROZEN, strategy)
    state, job = started(tmp_path, configuration, there=there)
    batch = Batch(torch.randn(2, 1, 8, 16, 16), torch.randint(0, 3, (2, 8, 16, 16)))
    loss = build_loss(configuration.loss, job.plan.targets)
    for progress in (0.1, 0.5, 0.9):
        state.tuning.train_(state.network)
        state.tuning.release_(state.network, progress)
        train_step(state, batch, loss, learning_rate=0.1, gradient_clip=1e9)
    assert job.start is not None
    for name, values in state.network.named_parameters():
        if name.startswith("second.encoder."):
            source = name if name in job.start.weights else name.removeprefix("second.")
            assert torch.equal(values, job.start.weights[source])
        assert "second/encoder" not in name  # nor has it updates of low rank
    changed = dict(state.network.named_parameters())["heads.0.weight"]
    assert not torch.equal(changed, job.start.weights["heads.0.weight"])


def test_the_second_data_set_sees_updates_of_low_rank(tmp_path: Path) -> None:
    """Were they left out, it would be trained on a network that nobody predicts with."""
    configuration = dual(JointStreams(), LowRank(rank=1)).model_copy(
        update={"batch": 2, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
    )
    state, job = started(tmp_path, configuration)
    job = replace(job, auxiliary=second_data_set(tmp_path / "other"), workers=0)
    assert isinstance(state.forward, UpdatedNetwork)
    part = start_borrowing(job, configuration, range(2), 0.0)
    assert part is not None
    batch = next(part.batches)

    def value() -> float:
        assert part is not None
        part.batches = iter([batch])
        term = part.next(0.0)
        assert term is not None
        return float(term(state).detach())

    before = value()
    with torch.no_grad():
        for name, values in state.network.named_parameters():
            if name.startswith("low_rank.") and name.endswith(".up"):
                values.fill_(0.5)
    assert value() != pytest.approx(before, abs=1e-5)


def test_a_training_on_two_data_sets_starts_from_a_model(tmp_path: Path) -> None:
    configuration = dual(JointStreams())
    _, job = started(tmp_path, configuration)
    job = replace(job, auxiliary=second_data_set(tmp_path / "other"), epochs=1)
    assert train(job).start is not None
    assert not any("stream" in name for name in load_weights(job.output.weights))


def test_two_starts_for_the_same_encoders_are_refused() -> None:
    fresh = dual(GATED)
    refuse_two_starts(fresh)
    refuse_two_starts(tiny_configuration())
    coarse = dual(GatedEncoders(channels=1, source="previous_stage", frozen=True))
    with pytest.raises(ModelError, match="both encoders start at") as caught:
        refuse_two_starts(coarse.model_copy(update={"previous_stage": "3d_lowres"}))
    assert "source=fresh" in caught.value.remedy
