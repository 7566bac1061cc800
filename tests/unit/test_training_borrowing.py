"""Training on a second data set as well: weights, labels by name, resuming, what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from draws import watched_draws
from targets import nested, plain
from torch import Tensor, nn
from trainingdata import make_folder
from trainingjobs import LONG, make_job, stop_at_step

from selfseg.loading import workers as loading
from selfseg.loading.batches import Batch
from selfseg.networks.weights import load_weights
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Label, Region, Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import (
    BinaryCrossEntropyTerm,
    CrossEntropyTerm,
    DiceTerm,
    SkeletonRecallTerm,
)
from selfseg.records.network import DualChannel, JointStreams, plain_part
from selfseg.training import borrowing as borrowing_module
from selfseg.training import train as training
from selfseg.training.begin import batches_of
from selfseg.training.borrowing import (
    Borrowing,
    auxiliary_weight,
    shared_indices,
    shared_targets,
    simple_terms,
    start_borrowing,
)
from selfseg.training.job import AuxiliaryData, TrainingJob, plan_course
from selfseg.training.state import create_state
from selfseg.training.step import train_step
from selfseg.training.train import train

CORE, OTHER = Label(name="core", value=7), Label(name="vessel", value=2)


def joint_job(tmp_path: Path, name: str = "run", *, own_heads: bool = False) -> TrainingJob:
    """Return a job with batches of three, one of them from a data set of core and vessel."""
    job = make_job(tmp_path, name)
    data = tmp_path / "other"
    ids = tuple(f"case_{i}" for i in range(2))
    if not data.exists():
        make_folder(data, cases=2, shape=(12, 16, 16), seed=9)
    backbone = plain_part(job.configuration.network)
    assert backbone is not None
    network = DualChannel(backbone=backbone, variant=JointStreams(own_heads=own_heads))
    loss = Loss(terms=(DiceTerm(), CrossEntropyTerm()))
    configuration = job.configuration.model_copy(
        update={"network": network, "batch": 3, "loss": loss}
    )
    auxiliary = AuxiliaryData(
        options=Auxiliary(name="other", share=0.3),
        targets=Targets(labels=(OTHER, CORE)),
        cases=ids,
        data=data,
        data_digest="x",
    )
    plan = job.plan.model_copy(update={"configurations": (configuration,)})
    return replace(job, plan=plan, configuration=configuration, auxiliary=auxiliary)


def test_the_weight_falls_along_a_cosine_and_the_end_is_primary() -> None:
    options = Auxiliary(name="other")
    assert auxiliary_weight(options, 0.0) == 1.0
    assert auxiliary_weight(options, 0.45) == pytest.approx(0.55)
    assert auxiliary_weight(options, 0.225) == pytest.approx(0.1 + 0.9 * (1 + 0.5**0.5) / 2)
    assert auxiliary_weight(options, 0.9 - 1e-9) == pytest.approx(0.1)
    assert auxiliary_weight(options, 0.9) == 0.0
    assert auxiliary_weight(options, 1.0) == 0.0


@pytest.mark.parametrize(
    ("share", "batch", "samples"), [(0.5, 2, 1), (0.5, 9, 4), (0.9, 2, 1), (0.01, 4, 1)]
)
def test_every_batch_has_samples_of_both(share: float, batch: int, samples: int) -> None:
    assert Auxiliary(name="other", share=share).samples(batch) == samples


def test_labels_are_matched_by_name() -> None:
    primary = plain(3)
    other = Targets(
        labels=(
            Label(name="bone", value=1), Label(name="label 3", value=2),
            Label(name="Label 1", value=5),
        )
    )  # fmt: skip
    assert shared_indices(shared_targets(primary, other), other) == [0, 0, 3, 1]
    partly = other.model_copy(update={"ignore": 9})
    targets = shared_targets(primary, partly)
    assert targets.ignore_index == 4
    assert shared_indices(targets, partly) == [0, 0, 3, 1, 4]
    assert shared_targets(plain(3, ignore=255), other).ignore is None
    regions = shared_targets(nested(), other).regions
    assert regions[2] == nested().regions[2]
    assert [region.values for region in regions] == [(), (), (3,)]  # label 2 is not annotated


def test_terms_that_need_more_than_labels_are_left_out() -> None:
    loss = Loss(
        terms=(DiceTerm(), CrossEntropyTerm(class_weights=(1.0, 2.0)), SkeletonRecallTerm())
    )
    assert simple_terms(loss).terms == (DiceTerm(), CrossEntropyTerm())


def borrowing(job: TrainingJob) -> Borrowing:
    found = start_borrowing(job, job.configuration, range(4), 0.0)
    assert found is not None
    return found


def test_a_run_that_goes_on_with_primary_samples_alone_opens_no_auxiliary_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = joint_job(tmp_path)
    assert job.auxiliary is not None
    end = 1 - job.auxiliary.options.primary_only
    opened: list[range] = []

    def noted(*_: object, steps: range, **__: object) -> Iterator[Batch]:
        opened.append(steps)
        return iter(())

    monkeypatch.setattr(borrowing_module, "training_batches", noted)
    assert start_borrowing(job, job.configuration, range(9, 10), end) is None
    assert opened == []
    assert start_borrowing(job, job.configuration, range(8, 10), end - 0.01) is not None
    assert opened == [range(8, 10)]


def test_a_partly_annotated_region_costs_nothing(tmp_path: Path) -> None:
    """`whole` is core and rim, and only core is annotated: nothing is known of `whole`."""
    job = joint_job(tmp_path)
    own = job.plan.labels
    regions = (
        Region(name="whole", values=tuple(label.value for label in own), value=1),
        Region(name="core", values=(own[0].value,), value=4),
    )
    loss = Loss(terms=(BinaryCrossEntropyTerm(),))
    configuration = job.configuration.model_copy(update={"loss": loss})
    plan = job.plan.model_copy(update={"regions": regions, "configurations": (configuration,)})
    job = replace(job, plan=plan, configuration=configuration)
    part = borrowing(job)
    batch = next(part.batches)
    batch = replace(batch, label=torch.arange(batch.label.numel()).view_as(batch.label) % 3)
    core = part.indices[batch.label] == 1
    assert core.any()
    part.batches = iter([batch])
    state = create_state(configuration, LONG, channels=1, outputs=2, seed=0, device=job.device)
    state.network = state.forward = Fixed(torch.tensor([0.3, 1.2]).view(1, 2, 1, 1, 1))
    term = part.next(0.0)
    assert term is not None
    log_p, log_q = nn.functional.logsigmoid(torch.tensor([1.2, -1.2]))
    expected = -torch.where(core, log_p, log_q).mean() / 2  # of two regions
    torch.testing.assert_close(term(state), expected, rtol=1e-4, atol=1e-5)


class Fixed(nn.Module):
    """Gives the same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.logits.expand(len(x), -1, *x.shape[2:]),)


@pytest.mark.parametrize(("own_heads", "outputs"), [(False, 3), (True, 3)])
def test_the_added_loss_is_that_of_the_auxiliary_batch(
    tmp_path: Path, *, own_heads: bool, outputs: int
) -> None:
    job = joint_job(tmp_path, own_heads=own_heads)
    part = borrowing(job)
    batch = next(part.batches)
    assert len(batch.image) == job.borrowed_samples == 1
    assert int(batch.label.max()) <= 2
    part.batches = iter([batch])
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=job.device)
    logits = torch.tensor([0.3, 1.2, -0.4]).view(1, outputs, 1, 1, 1)
    state.network = state.forward = Fixed(logits)
    term = part.next(0.45)
    assert term is not None
    p = logits.flatten().softmax(dim=0)
    if own_heads:  # background, vessel, core
        of_label = p
    else:  # theirs: background, vessel (background here), core; ours: background, core, rim
        p = torch.stack((p[0] + p[2], p[0] + p[2], p[1]))
        of_label = p
    expected = -of_label.log()[batch.label].mean()
    masks = [batch.label == 1, batch.label == 2] if own_heads else [batch.label == 2]
    values = [of_label[1], of_label[2]] if own_heads else [of_label[2]]
    voxels = batch.label.numel()
    dice = [
        (2 * v * m.sum() + 1e-5) / (v * voxels + m.sum() + 1e-5)
        for v, m in zip(values, masks, strict=True)
    ]
    if not own_heads:
        dice.append(torch.tensor(1.0))  # rim is annotated by nobody here
    expected = expected - torch.stack(dice).mean()
    torch.testing.assert_close(term(state), 0.55 * expected, rtol=1e-4, atol=1e-5)
    assert part.next(0.95) is None


@pytest.mark.parametrize("own_heads", [False, True])
def test_the_network_that_is_kept_is_the_primary_one(tmp_path: Path, *, own_heads: bool) -> None:
    job = joint_job(tmp_path, own_heads=own_heads)
    train(job)
    weights = load_weights(job.output.weights)
    assert not any("stream" in name for name in weights)
    alone = replace(job, auxiliary=None, output=type(job.output)(tmp_path / "alone"))
    train(alone)
    names = load_weights(alone.output.weights)
    assert set(names) == set(weights)
    convolution = "encoder.0.0.conv.weight"
    assert not torch.equal(names[convolution], weights[convolution])


def test_a_resumed_run_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed where both take part, and again where the primary data set is alone."""
    whole, broken = joint_job(tmp_path), joint_job(tmp_path, "broken")
    assert whole.auxiliary is not None
    options = whole.auxiliary.options.model_copy(update={"primary_only": 0.5})
    whole, broken = (
        replace(job, auxiliary=replace(whole.auxiliary, options=options)) for job in (whole, broken)
    )
    train(whole)
    stop_at_step(5, broken, monkeypatch)
    stop_at_step(9, broken, monkeypatch)
    train(broken)
    expected, found = load_weights(whole.output.weights), load_weights(broken.output.weights)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_primary_samples_make_room_and_the_last_steps_are_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = joint_job(tmp_path)
    seen: list[tuple[int, bool]] = []
    usual = train_step

    def watch(state, batch, *args, borrowed, **options):  # type: ignore[no-untyped-def]
        seen.append((len(batch.image), borrowed is not None))
        return usual(state, batch, *args, borrowed=borrowed, **options)

    monkeypatch.setattr(training, "train_step", watch)
    train(job)
    assert seen == [(2, True)] * 11 + [(3, False)]  # 12 steps; the last 10 % are one of them


@pytest.mark.parametrize("workers", [0, 1])
def test_the_last_steps_are_those_of_the_primary_data_set_alone(
    tmp_path: Path, workers: int
) -> None:
    job = replace(joint_job(tmp_path), workers=workers)
    course = plan_course(job)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=job.device)
    alone = list(batches_of(replace(job, auxiliary=None, workers=0), course, state))
    assert len(alone) == 12
    before = len(active_children())
    stream, images = batches_of(job, course, state), []
    for state.step in range(12):
        images.append(next(stream).image)
        assert len(active_children()) == before + workers  # of the parts, then of whole batches
    assert [len(image) for image in images] == [2] * 11 + [3]
    assert torch.equal(images[-1], alone[-1].image)
    assert next(batches_of(job, course, state)).image.equal(images[-1])  # begun there, or resumed


def test_workers_that_start_for_the_last_steps_are_no_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_start_worker", lambda _: time.sleep(0.5))
    job = replace(joint_job(tmp_path), workers=1)
    course = plan_course(job)
    state = create_state(job.configuration, LONG, channels=1, outputs=3, seed=0, device=job.device)
    stream = batches_of(job, course, state)
    for state.step in range(12):
        next(stream)
    assert 0 < stream.waited_s < 0.5


def test_auxiliary_batches_are_not_kept_ready_once_they_are_over(tmp_path: Path) -> None:
    part = borrowing(replace(joint_job(tmp_path), workers=1))
    before = len(active_children())
    assert part.next(0.0) is not None
    assert len(active_children()) == before + 1
    assert part.next(0.95) is None
    assert len(active_children()) == before


def test_a_step_without_weight_takes_its_batch(tmp_path: Path) -> None:
    """Else a run that is resumed after it would see other batches."""
    job = joint_job(tmp_path)
    assert job.auxiliary is not None
    options = job.auxiliary.options.model_copy(update={"first_weight": 0.0})
    part = borrowing(replace(job, auxiliary=replace(job.auxiliary, options=options)))
    assert part.next(0.0) is not None
    assert len(list(part.batches)) == 3


def test_both_parts_of_a_batch_of_two_show_foreground_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many samples as in a batch without borrowed ones: one of two, now here and now there."""
    job = joint_job(tmp_path)
    configuration = job.configuration.model_copy(update={"batch": 2})
    job = replace(job, configuration=configuration)
    flags = watched_draws(monkeypatch)
    state = create_state(configuration, LONG, channels=1, outputs=3, seed=0, device=job.device)
    own, part = batches_of(job, plan_course(job), state), borrowing(job)
    for _ in range(4):
        assert len(next(own).image) == len(next(part.batches).image) == 1
    assert flags == [False, True, True, False] * 2


def test_another_auxiliary_data_set_is_another_training(tmp_path: Path) -> None:
    job = joint_job(tmp_path)
    assert job.auxiliary is not None
    other = replace(job, auxiliary=replace(job.auxiliary, data_digest="y"))
    assert job.digest != other.digest
    assert replace(job, auxiliary=None).digest not in (job.digest, other.digest)
