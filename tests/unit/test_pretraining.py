"""Pretraining without labels: masks, learning, resuming, and starting from the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from racedata import write_unraced
from selfseg.planners.pretraining import decide_pretraining
from tinymodel import tiny_configuration, tiny_plan
from torch import nn
from trainingdata import write_case
from trainingjobs import CPU, make_job

from selfseg.cli.tables import print_pretrained
from selfseg.errors import CheckpointError, ModelError, PlanError
from selfseg.files import file_digest
from selfseg.inference.trained import PlannedDataset
from selfseg.io.images import write_volume
from selfseg.networks.build import build_network
from selfseg.networks.layout import set_layout
from selfseg.networks.weights import load_weights, save_weights
from selfseg.pretrain import PretrainRequest, _configuration, pretrain_network
from selfseg.pretraining import train as pretraining
from selfseg.pretraining.job import PretrainingJob
from selfseg.pretraining.masks import MaskedBatch, cut_patch, draw_batch, draw_mask, flat_error
from selfseg.pretraining.train import pretrain
from selfseg.records import serial
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.ideas import Idea
from selfseg.records.network import DSN3D, ContextUNet
from selfseg.records.pretraining import Pretrained
from selfseg.records.transfer import TransferReport
from selfseg.starting import start_of_fold
from selfseg.training.start import open_source
from selfseg.training.train import train
from selfseg.workspace.network import PretrainedFolder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@settings(max_examples=30, deadline=None)
@given(
    patch=st.lists(st.integers(4, 12), min_size=2, max_size=3),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
)
def test_masks_are_whole_blocks(patch: list[int], share: float, seed: int) -> None:
    block = [3] * len(patch)
    mask = draw_mask(patch, block, share, np.random.default_rng(seed))
    assert mask.shape == tuple(patch)
    corners = mask[tuple(slice(None, None, 3) for _ in patch)]
    assert corners.sum() == max(1, round(share * corners.size))
    whole = corners
    for axis in range(len(patch)):
        whole = whole.repeat(3, axis=axis)
    assert np.array_equal(whole[tuple(slice(n) for n in patch)], mask)


def test_only_masked_voxels_count() -> None:
    image = torch.zeros(1, 2, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 0] = True
    batch = MaskedBatch(seen=image, image=image, mask=mask)
    painted = torch.where(mask, 3.0, 100.0).expand(-1, 2, -1, -1)
    assert float(batch.error(painted)) == pytest.approx(9.0)


def waves(folder: Path, count: int = 3) -> tuple[Path, ...]:
    """Store smooth images, of which what is masked can be guessed from what is not."""
    z, y, x = np.meshgrid(*(np.arange(16),) * 3, indexing="ij")
    for number in range(count):
        image = np.sin(0.4 * (z + y) + number) + np.cos(0.3 * x)
        write_case(folder, f"image_{number}", image[None], np.zeros((16, 16, 16), int))
    return tuple(folder / f"image_{number}.b2nd" for number in range(count))


def test_the_network_sees_nothing_of_what_it_is_to_paint(tmp_path: Path) -> None:
    arrays = waves(tmp_path)
    drawn = [
        draw_batch(arrays, (8, 8, 8), batch=2, block=(4, 4, 4), share=0.5, seed=(1, step))
        for step in (0, 0, 1)
    ]
    batch = drawn[0]
    assert torch.equal(batch.seen, torch.where(batch.mask, 0.0, batch.image))
    assert float(batch.mask.float().mean()) == 0.5
    assert torch.equal(drawn[0].seen, drawn[1].seen)
    assert not torch.equal(drawn[0].seen, drawn[2].seen)
    squares = batch.image[batch.mask.expand_as(batch.image)].square()
    assert flat_error(batch) == pytest.approx(float(squares.mean()), rel=1e-5)


@pytest.mark.parametrize(("patch", "shape"), [((20, 8, 8), (1, 20, 8, 8)), ((20, 8), (1, 20, 8))])
def test_patches_larger_than_an_image_are_padded(
    tmp_path: Path, patch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    cut = cut_patch(waves(tmp_path)[0], patch, np.random.default_rng(0))
    assert cut.shape == shape
    assert np.count_nonzero(np.abs(cut).sum(axis=tuple(n for n in range(cut.ndim) if n != 1))) == 16


def job_of(tmp_path: Path, name: str = "run", **changes: object) -> PretrainingJob:
    configuration = tiny_configuration(patch=(8, 8, 8))
    options, decision = decide_pretraining(configuration)
    job = PretrainingJob(
        dataset="phantom",
        channels=("channel 0",),
        configuration=configuration,
        options=options,
        decision=decision,
        cases=("image_0", "image_1", "image_2"),
        arrays=waves(tmp_path / "arrays"),
        output=PretrainedFolder(tmp_path / name / "3d_fullres"),
        steps=6,
        device=CPU,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def test_a_network_learns_to_paint(tmp_path: Path) -> None:
    made = pretrain(job_of(tmp_path, steps=120))
    assert made.error < 0.9 * made.error_of_zeros
    assert not job_of(tmp_path).output.checkpoint.exists()


def test_other_images_of_the_same_names_are_not_what_was_pretrained(tmp_path: Path) -> None:
    pretrain(job_of(tmp_path, images=("1", "2", "3")))
    assert pretrain(job_of(tmp_path, images=("1", "2", "3"))).steps == 6
    with pytest.raises(CheckpointError, match="other options: the images"):
        pretrain(job_of(tmp_path, images=("1", "2", "4")))
    job = job_of(tmp_path)
    assert job.basis != replace(job, images=("1",)).basis  # nor does a checkpoint go on with them


def test_a_finished_network_does_not_stand_for_one_of_other_options(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(tmp_path)
    made = pretrain(job)
    other = job.options.model_copy(update={"share": 0.3, "steps": 7})
    with pytest.raises(CheckpointError) as caught:
        pretrain(replace(job, seed=5, steps=50, options=other))
    assert "the seed (0 there, 5 now); share (0.6 there, 0.3 now)" in caught.value.message
    assert "--restart" in caught.value.remedy
    wider = job.configuration.model_copy(update={"patch": (8, 8, 16)})
    with pytest.raises(CheckpointError, match="other options: network, preprocessing or patch of"):
        pretrain(replace(job, configuration=wider))
    for same in (replace(job, steps=None), replace(job, time_s=made.seconds - 0.5), job):
        assert pretrain(same) == made
    assert "It was not pretrained" not in caplog.text
    assert pretrain(replace(job, steps=50)) == made
    assert "It was not pretrained for 50 steps; --restart would" in caplog.text
    assert pretrain(replace(job, time_s=3600.0)) == made
    assert "It was not pretrained for 3600 s" in caplog.text
    assert pretrain(replace(job, seed=5, options=other, restart=True)).seed == 5


def test_a_pretrained_network_is_known_by_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(tmp_path)
    made = pretrain(job)
    source = open_source(job.output.path)
    assert source.model == made.model
    assert made.model.digest == file_digest(job.output.weights)
    fold = make_job(tmp_path, epochs=1, start=source)
    train(fold)
    weights = load_weights(job.output.weights)
    save_weights({name: value * 0 for name, value in weights.items()}, job.output.weights)
    changed = open_source(job.output.path)
    assert changed.model.digest == file_digest(job.output.weights) != source.model.digest
    told = f"digest {source.model.digest} there, {changed.model.digest} now"
    with pytest.raises(CheckpointError, match=told):
        train(replace(fold, start=changed))
    # earlier versions wrote the digest of something else down
    old = made.model.model_copy(update={"digest": "0123456789abcdef"})
    serial.save(made.model_copy(update={"model": old}), job.output.description)
    assert open_source(job.output.path).model == changed.model


def pretrained(folder: Path, *, steps: int) -> tuple[PlannedDataset, Pretrained, Idea | None]:
    """Plan, and pretrain on one image without labels."""
    known, images = write_unraced(folder), folder / "images"
    z, y, x = np.meshgrid(*map(np.arange, (8, 16, 16)), indexing="ij")
    image = (np.sin(0.4 * (z + y)) + np.cos(0.3 * x)).astype(np.float32)
    images.mkdir()
    write_volume(
        image, native=Geometry(shape=image.shape, spacing_mm=(2.0, 1.0, 1.0)),
        orientation=Orientation(), path=images / "a_0000.nii.gz",
    )  # fmt: skip
    request = PretrainRequest(images=images, steps=steps, device="cpu", workers=1)
    return known, *pretrain_network("phantom", known.folder.workspace, request)


def test_a_network_that_learned_nothing_is_recommended_for_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    known, made, idea = pretrained(tmp_path, steps=1)
    assert made.error >= made.error_of_zeros
    assert idea is None
    assert "Nothing was learned: the error of masked voxels is" in caplog.text
    assert "no idea was nominated" in caplog.text
    print_pretrained(made, idea, known.folder.workspace)
    shown = capsys.readouterr().out
    assert "painting zeros has" in shown
    assert "--init" not in shown
    assert "selfseg race" not in shown


def test_the_idea_to_start_from_it_names_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration whose start was pretrained refuses other weights in its place."""
    known, made, idea = pretrained(tmp_path, steps=60)
    assert "Nothing was learned" not in caplog.text
    print_pretrained(made, idea, known.folder.workspace)
    assert "--ideas pretrained" in capsys.readouterr().out
    assert idea is not None
    assert idea.start is not None
    assert idea.start.weights == (made.model.digest,)
    item = known.plan.configurations[0].model_copy(update={"start": idea.start})
    assert start_of_fold(known, item, "0", ()) is not None
    files = known.folder.pretrained("3d_fullres")
    weights = load_weights(files.weights)
    save_weights({name: value * 0 for name, value in weights.items()}, files.weights)
    with pytest.raises(ModelError, match="are not those that the plan was made to fit") as caught:
        start_of_fold(known, item, "0", ())
    assert "Run 'selfseg pretrain' again" in caught.value.remedy


def test_weights_have_the_chosen_layout_and_not_the_one_tried_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried_last(network: nn.Module, *_: object) -> torch.memory_format:
        set_layout(network, torch.channels_last_3d)
        return torch.contiguous_format

    kernels = [p for p in pretraining._begin(job_of(tmp_path)).network.parameters() if p.dim() > 2]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)
    monkeypatch.setattr(pretraining, "choose_layout", tried_last)
    kernels = [p for p in pretraining._begin(job_of(tmp_path)).network.parameters() if p.dim() > 2]
    assert all(kernel.is_contiguous() for kernel in kernels)


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_pretraining_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = job_of(tmp_path, "plain")
    pretrain(plain)
    killed = job_of(tmp_path, "killed")
    draw = pretraining._draw

    def dying(job: PretrainingJob, step: int) -> MaskedBatch:
        if step == 4:
            raise KilledError
        return draw(job, step)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(pretraining, "_draw", dying)
        with pytest.raises(KilledError):
            pretrain(killed)
    with pytest.raises(CheckpointError, match="another seed"):
        pretrain(replace(killed, seed=1))
    assert pretrain(killed).steps == 6
    assert killed.output.weights.read_bytes() == plain.output.weights.read_bytes()
    assert pretrain(replace(killed, steps=9)).steps == 6  # finished, and left alone
    with pytest.raises(CheckpointError, match="the images"):
        pretrain(replace(killed, cases=("another",)))


def test_a_training_starts_from_all_but_the_heads(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    pretrain(job)
    weights = load_weights(job.output.weights)
    network = build_network(job.configuration.network, channels=1, outputs=3)
    heads = {name for name in network.state_dict() if name.startswith("heads.")}
    assert weights.keys() == network.state_dict().keys() - heads
    fold = make_job(tmp_path, epochs=1, start=open_source(job.output.path))
    trained = train(fold)
    assert trained.start is not None
    assert trained.start.fold == "pretrained"
    report = serial.load(TransferReport, fold.output.transfer)
    assert {note.name for note in report.fresh} == heads
    assert not report.skipped
    assert not report.adapted


@pytest.mark.parametrize(("patch", "block"), [((8, 16, 16), (2, 2, 2)), ((4, 16, 16), (1, 2, 2))])
def test_blocks_are_voxels_of_the_bottleneck(
    patch: tuple[int, ...], block: tuple[int, ...]
) -> None:
    options, decision = decide_pretraining(tiny_configuration(patch=patch))
    assert options.block == block
    assert "60%" in decision.value
    deep = tiny_configuration(patch=(64, 64, 64)).model_copy(update={"network": DSN3D()})
    assert decide_pretraining(deep)[0].block == (8, 8, 8)


def test_networks_that_give_no_image_are_refused() -> None:
    slab = tiny_configuration().model_copy(
        update={
            "network": ContextUNet(
                slices=3,
                features=(4, 8),
                strides=((1, 1, 1), (1, 2, 2)),
                blocks_encoder=(1, 1),
                blocks_decoder=(1,),
            )
        }
    )
    plan = tiny_plan(slab, tiny_configuration("2d"))
    with pytest.raises(PlanError, match="3d_fullres cannot be pretrained") as error:
        _configuration(plan, None)
    assert error.value.remedy == "Choose with --config from: 2d."
    assert _configuration(plan, "2d").name == "2d"
