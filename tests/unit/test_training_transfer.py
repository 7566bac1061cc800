"""Starting from a model: what is loaded, that it gives the same output, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn
from trainingjobs import CPU, SHORT, make_job, stop_at_step

from selfseg.errors import CheckpointError, ModelError
from selfseg.inference.model import load_model
from selfseg.networks.build import build_network
from selfseg.networks.weights import load_weights
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File, Label, Region
from selfseg.records.network import UNet
from selfseg.records.optimization import Optimization
from selfseg.records.plan import Configuration, Plan
from selfseg.records.preprocessing import ZScore
from selfseg.records.transfer import (
    L2SP,
    FineTune,
    FrozenEncoder,
    HeadFirst,
    LowRank,
    Transfer,
    TransferReport,
)
from selfseg.training.job import TrainingJob
from selfseg.training.seen import Seen
from selfseg.training.start import open_source, refuse_leak
from selfseg.training.train import train
from selfseg.training.transfer import Ends, SourceModel, map_weights
from selfseg.workspace.network import FoldFolder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def source_of(tmp_path: Path, plan: Plan | None = None, fold: str | None = None) -> SourceModel:
    """Return a model with random weights, saved and read back."""
    folder = tmp_path / "source"
    if not folder.exists():
        save_model(folder, plan or tiny_plan(dataset="other"), folds=("0", "1"))
    return open_source(folder, fold=fold)


def mapped(
    source: SourceModel, plan: Plan, configuration: Configuration
) -> tuple[nn.Module, TransferReport]:
    """Return a network of a plan with a source's weights, in evaluation mode."""
    torch.manual_seed(77)
    network = build_network(
        configuration.network,
        channels=plan.input_channels(configuration),
        outputs=plan.targets.outputs,
    )
    target = Ends.of(plan, configuration)
    weights, report = map_weights(source, network.state_dict(), target, configuration)
    network.load_state_dict(weights)
    return network.eval(), report


def output(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(image)[0]
    return result


def stages(count: int, **changes: object) -> UNet:
    network = UNet(
        features=(4, 8, 12)[:count],
        kernels=((3, 3, 3),) * count,
        strides=((1, 1, 1), *((2, 2, 2),) * (count - 1)),
        convs_encoder=(1,) * count,
        convs_decoder=(1,) * (count - 1),
    )
    return network.model_copy(update=changes)


def planned(network: UNet) -> tuple[Plan, Configuration]:
    configuration = tiny_configuration().model_copy(update={"network": network})
    return tiny_plan(configuration), configuration


def test_equal_labels_give_the_output_of_the_source(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    plan = tiny_plan()
    network, report = mapped(source, plan, plan.configurations[0])
    known = load_model(tmp_path / "source", folds=["0"], device=CPU)
    image = torch.randn(1, 1, 8, 16, 16)
    torch.testing.assert_close(output(network, image), output(known.network, image))
    assert not report.adapted
    assert not report.fresh
    assert not report.skipped
    assert report.loaded_share == 1.0


def test_labels_in_another_order_give_the_source_s_outputs_in_that_order(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    swapped = (Label(name="Rim", value=1), Label(name="core", value=2))
    plan = tiny_plan().model_copy(update={"labels": swapped})
    network, report = mapped(source, plan, plan.configurations[0])
    same, _ = mapped(source, tiny_plan(), plan.configurations[0])
    image = torch.randn(1, 1, 8, 16, 16)
    torch.testing.assert_close(output(network, image), output(same, image)[:, [0, 2, 1]])
    assert {note.name.split(".")[0] for note in report.adapted} == {"heads"}


def test_other_labels_get_new_heads_and_the_rest_is_loaded(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    plan = tiny_plan().model_copy(update={"labels": (Label(name="tumor", value=1),)})
    _, report = mapped(source, plan, plan.configurations[0])
    assert {note.name for note in report.fresh} == {"heads.0.weight", "heads.0.bias"}
    assert "core" in report.fresh[0].note
    assert not any(name.startswith("heads") for name in report.loaded)


def test_regions_do_not_take_the_heads_of_labels(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    both = tuple(label.value for label in LABELS)
    regions = (Region(name="core", values=both, value=both[0]),)
    plan = tiny_plan().model_copy(update={"regions": regions})
    _, report = mapped(source, plan, plan.configurations[0])
    assert [note.note for note in report.fresh] == ["regions here, labels there"] * 2


def test_a_second_channel_that_copies_the_first_gives_the_source_s_output(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    configuration = tiny_configuration(channels=2)
    plan = tiny_plan(configuration, channels=2).model_copy(update={"channels": ("a", "b")})
    network, report = mapped(source, plan, configuration)
    same, _ = mapped(source, tiny_plan(), tiny_configuration())
    image = torch.randn(1, 1, 8, 16, 16)
    copies = image.expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(output(network, copies), output(same, image), rtol=1e-3, atol=1e-4)
    assert [note.name for note in report.adapted] == ["encoder.0.0.conv.weight"]


@pytest.mark.parametrize(("there", "here"), [(3, 2), (2, 3)])
def test_networks_of_other_depth_meet_at_equal_resolution(
    tmp_path: Path, there: int, here: int
) -> None:
    plan, _ = planned(stages(there))
    source = source_of(tmp_path, plan)
    plan, configuration = planned(stages(here))
    network, report = mapped(source, plan, configuration)
    weights = network.state_dict()
    finest = f"decoder.{here - 2}.0.conv.weight"
    torch.testing.assert_close(
        weights[finest], source.weights[f"decoder.{there - 2}.0.conv.weight"]
    )
    assert {f"encoder.{stage}.0.conv.weight" for stage in range(min(there, here))} <= set(
        report.loaded
    )
    fresh, skipped = {note.name for note in report.fresh}, set(report.skipped)
    deeper = {"encoder.2.0.conv.weight", "decoder.0.0.conv.weight", "upsample.0.weight"}
    assert deeper <= (fresh if here == 3 else skipped)
    assert not fresh if here == 2 else not skipped


def test_networks_of_two_axes_start_ones_of_three(tmp_path: Path) -> None:
    flat = tiny_configuration("2d")
    source = source_of(tmp_path, tiny_plan(flat))
    network, report = mapped(source, tiny_plan(), tiny_configuration())
    assert not report.fresh
    known, _ = mapped(source, tiny_plan(flat), flat)
    image = torch.randn(1, 1, 16, 16)
    # Equal slices stay equal but for the zeros beyond the borders of the volume, which zero taps
    # do not see; the norm is over slices that are all alike.
    stack = image.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    slices = output(network, stack)[0].unbind(1)
    for found in slices:
        torch.testing.assert_close(found, output(known, image)[0], rtol=1e-3, atol=1e-4)


def test_other_widths_and_kinds_are_refused_with_a_remedy(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    plan, configuration = planned(stages(2, features=(6, 12)))
    with pytest.raises(ModelError, match="widths 4, 8, not 6, 12") as error:
        mapped(source, plan, configuration)
    assert "selfseg plan DATASET --init" in error.value.remedy
    residual = {
        "kind": "residual_unet",
        "blocks_encoder": (1, 1),
        **stages(2).model_dump(exclude={"kind", "convs_encoder"}),
    }
    content = configuration.model_dump() | {"network": residual}
    other = Configuration.model_validate(content)
    with pytest.raises(ModelError, match="it is a unet, the plan wants a residual_unet"):
        mapped(source, tiny_plan(other), other)


def test_differences_of_the_images_are_told(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    configuration = tiny_configuration(spacing_mm=(4.0, 1.0, 1.0))
    changed = configuration.preprocessing.model_copy(
        update={"normalization": (ZScore(),), "orientation": "ras"}
    )
    configuration = configuration.model_copy(update={"preprocessing": changed})
    _, report = mapped(source, tiny_plan(configuration), configuration)
    assert "(zscore here, none there)" in report.notes[0]
    assert report.notes[1] == "axes are ZYX (ras) here, ZYX (canonical) there"
    assert report.notes[2] == "spacing is 4×1×1 mm here, 2×1×1 mm there"


def test_the_fold_of_the_same_number_is_taken_unless_one_has_seen_all(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    save_model(folder, tiny_plan(), folds=("0", "1"))
    like = ("3d_fullres", "1")
    assert open_source(folder, like=like).model.fold == "1"
    assert open_source(folder, like=("3d_fullres", "7")).model.fold == "0"
    assert open_source(folder, fold="0", like=like).model.fold == "0"
    save_model(folder, tiny_plan(), folds=("0", "1", "all"))
    assert open_source(folder, like=like).model.fold == "all"


def test_a_model_that_is_not_there_is_refused_in_the_words_of_train(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--init: .*no trained model"):
        open_source(tmp_path)
    source_of(tmp_path)
    with pytest.raises(ModelError, match="no trained model 2d") as error:
        open_source(tmp_path / "source", configuration="2d")
    assert "--init-config NAME" in error.value.remedy


def test_a_model_whose_plan_was_edited_since_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "source", tiny_plan())
    plan, _ = planned(stages(3))
    serial.save(plan, folder.plan)
    with pytest.raises(ModelError, match="trained with another plan"):
        open_source(folder.path)


def dataset_of(*cases: tuple[str, str], name: str = "phantom") -> Dataset:
    return Dataset(
        name=name,
        root="/data",
        layout="nnunet",
        channels=("channel 0",),
        labels=LABELS,
        cases=tuple(
            Case(id=case, images=(File(path=case, digest=digest),)) for case, digest in cases
        ),
    )


def test_a_model_that_saw_held_out_cases_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(("a", "1"), ("b", "2"), ("c", "3"))
    source = replace(source_of(tmp_path), seen=Seen(frozenset({"2"})))
    with pytest.raises(ModelError, match="was trained on cases that this fold holds out: b"):
        refuse_leak(source, dataset, ["b", "c"])
    refuse_leak(source, dataset, ["a", "c"])  # b is not held out


def test_without_digests_equal_ids_of_an_equal_data_set_are_refused(tmp_path: Path) -> None:
    source = replace(source_of(tmp_path), train_cases=("a",))
    assert source.seen.unknown
    with pytest.raises(ModelError, match="holds out: a"):
        refuse_leak(source, dataset_of(("a", "1"), name="other"), ["a"])
    refuse_leak(source, dataset_of(("a", "1"), name="phantom"), ["a"])


STRATEGIES: list[Transfer] = [
    FineTune(),
    HeadFirst(head_share=0.5),
    FrozenEncoder(),
    L2SP(),
    LowRank(rank=2),
]


def started_job(tmp_path: Path, strategy: Transfer, name: str = "run") -> TrainingJob:
    """Return a job that starts from a model with another label count."""
    job = make_job(tmp_path, name)
    options = Optimization(recipe=SHORT, short_recipe=SHORT, short_below_steps=100)
    changes = {"transfer": strategy, "optimization": options}
    configuration = job.configuration.model_copy(update=changes)
    plan = tiny_plan(configuration)
    return replace(job, plan=plan, configuration=configuration, start=source_of(tmp_path))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.kind)
def test_resumed_training_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Transfer
) -> None:
    plain = started_job(tmp_path, strategy, "plain")
    train(plain)
    killed = replace(plain, output=FoldFolder(tmp_path / "killed"))
    stop_at_step(9, killed, monkeypatch, save_every=1)
    fold = train(killed)
    assert killed.output.weights.read_bytes() == plain.output.weights.read_bytes()
    assert fold.start == plain.start.model if plain.start else False
    source = load_weights(tmp_path / "source/models/3d_fullres/fold_0/weights.safetensors")
    trained = load_weights(plain.output.weights)
    assert trained.keys() == source.keys()  # prediction knows nothing of the strategy
    assert any(not torch.equal(trained[name], source[name]) for name in source)


def test_the_report_lies_beside_the_fold(tmp_path: Path) -> None:
    job = started_job(tmp_path, FrozenEncoder())
    train(job)
    report = serial.load(TransferReport, job.output.transfer)
    assert report.strategy == FrozenEncoder()
    assert report.source.dataset == "other"
    assert report.loaded


def test_no_report_stays_of_a_start_that_a_fold_was_not_trained_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started_job(tmp_path, FineTune())
    stop_at_step(2, job, monkeypatch)  # before the first checkpoint: any start may come next
    assert job.output.transfer.is_file()
    assert train(replace(job, start=None)).start is None
    assert not job.output.transfer.exists()


def test_another_start_is_refused_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started_job(tmp_path, FineTune())
    stop_at_step(5, job, monkeypatch)
    with pytest.raises(CheckpointError, match=r"what it starts from .*other.* random weights now"):
        train(replace(job, start=None))
    other = open_source(tmp_path / "source", fold="1")
    with pytest.raises(CheckpointError, match=r"fold 0 .* there, .* fold 1 .* now"):
        train(replace(job, start=other))
    assert train(job).steps == 12


def test_a_finished_fold_does_not_stand_for_one_with_another_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = started_job(tmp_path, FineTune())
    train(replace(job, start=None))
    with pytest.raises(CheckpointError, match="random weights there"):
        train(job)
    train(replace(job, restart=True))
    assert train(replace(job, start=None)).start is not None  # said, and left alone
    assert "It started from other 3d_fullres fold 0" in caplog.text
