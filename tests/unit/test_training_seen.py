"""What a model has seen: its own cases, borrowed ones, and what its start has seen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from tinymodel import LABELS, save_model, tiny_plan

from selfseg.adopting import _unseen
from selfseg.errors import ModelError
from selfseg.inference.find import choose_model
from selfseg.inference.trained import PlannedDataset, model_digest
from selfseg.records import serial
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.dataset import Case, Dataset, File
from selfseg.records.model import TrainedFold
from selfseg.records.transfer import StartModel
from selfseg.training.seen import Seen, seen_images
from selfseg.training.start import open_source, refuse_leak
from selfseg.workspace.dataset import DatasetFolder


def dataset_of(name: str, *digests: str, groups: Mapping[str, str] | None = None) -> Dataset:
    """Return a data set with a case for each digest, of the same id; `groups` by id."""
    group_of = groups or {}
    return Dataset(
        name=name,
        root="/data",
        layout="nnunet",
        channels=("channel 0",),
        labels=LABELS,
        cases=tuple(
            Case(id=d, images=(File(path=d, digest=d),), group=group_of.get(d)) for d in digests
        ),
    )


def model_of(
    root: Path,
    name: str,
    *digests: str,
    train: tuple[str, ...],
    borrowed: Dataset | None = None,
    start: StartModel | None = None,
    groups: Mapping[str, str] | None = None,
) -> DatasetFolder:
    """Write a model that was trained on some cases of a data set."""
    plan = tiny_plan(dataset=name)
    if borrowed is not None:
        plan = plan.model_copy(update={"auxiliary": Auxiliary(name=borrowed.name)})
    folder = save_model(root / name, plan)
    dataset = dataset_of(name, *digests, groups=groups)
    serial.save(dataset, folder.dataset)
    if borrowed is not None:
        serial.save(borrowed, folder.auxiliary)
    files = folder.fold("3d_fullres", "0")
    known = PlannedDataset(folder, plan, dataset)
    changes = {
        "train_cases": train,
        "data_digest": known.data_digest(plan.configurations[0], train),
        "start": start,
    }
    trained = serial.load(TrainedFold, files.description)
    serial.save(trained.model_copy(update=changes), files.description)
    return folder


def seen(folder: DatasetFolder) -> Seen:
    found = choose_model(folder.path, None, ["0"])
    files = folder.fold("3d_fullres", "0")
    return seen_images(found, serial.load(TrainedFold, files.description))


def started_from(folder: DatasetFolder) -> StartModel:
    found = choose_model(folder.path, None, ["0"])
    return StartModel(
        folder=str(folder.path),
        dataset=found.plan.dataset,
        configuration="3d_fullres",
        fold="0",
        digest=model_digest(folder, found.configuration, "0"),
    )


def test_only_training_cases_count(tmp_path: Path) -> None:
    assert seen(model_of(tmp_path, "x", "1", "2", "3", train=("1", "2"))).images == {"1", "2"}


def test_borrowed_cases_count(tmp_path: Path) -> None:
    """Started from a model that borrowed from the data, a fold would be scored on seen cases."""
    mine = dataset_of("mine", "7", "8")
    folder = model_of(tmp_path, "x", "1", train=("1",), borrowed=mine)
    assert seen(folder).images == {"1", "7", "8"}
    with pytest.raises(ModelError, match="holds out: 8"):
        refuse_leak(open_source(folder.path), mine, ["8"])


def test_what_its_start_has_seen_counts(tmp_path: Path) -> None:
    first = model_of(tmp_path, "mine", "7", "8", train=("7",))
    second = model_of(tmp_path, "x", "1", train=("1",), start=started_from(first))
    third = model_of(tmp_path, "y", "2", train=("2",), start=started_from(second))
    assert seen(third) == Seen(frozenset({"1", "2", "7"}))
    with pytest.raises(ModelError, match="holds out: 7"):
        refuse_leak(open_source(third.path), dataset_of("mine", "7", "8"), ["7"])


def test_another_case_of_a_patient_counts_as_seen(tmp_path: Path) -> None:
    groups = {"1": "P", "2": "P", "3": "Q"}
    mine = dataset_of("x", "1", "2", "3", "4", groups=groups)
    source = open_source(model_of(tmp_path, "x", "1", "2", "3", train=("1",), groups=groups).path)
    for held_out in (["1"], ["2"]):
        with pytest.raises(ModelError, match=f"holds out: {held_out[0]}"):
            refuse_leak(source, mine, held_out)
    with pytest.raises(ModelError, match=r"holds out: 2 \(by another case of group P\)\n"):
        refuse_leak(source, mine, ["2", "3", "4"])
    refuse_leak(source, mine, ["3", "4"])
    assert [case.id for case in _unseen(source, mine).cases] == ["3", "4"]


@pytest.mark.parametrize(
    ("name", "digests", "is_refused"),
    [
        ("x", ("2", "3"), True),  # the case that was seen is not among these
        ("y", ("2", "3"), False),  # P of another data set is someone else
        ("y", ("1", "2", "3"), True),  # but here the image itself was seen
    ],
)
def test_a_patient_is_known_by_data_set_and_group_or_by_an_image(
    tmp_path: Path, name: str, digests: tuple[str, ...], *, is_refused: bool
) -> None:
    groups = {"1": "P", "2": "P", "3": "Q"}
    folder = model_of(tmp_path, "x", "1", "2", train=("1",), groups=groups)
    second = model_of(tmp_path, "z", "9", train=("9",), start=started_from(folder))
    source, mine = open_source(second.path), dataset_of(name, *digests, groups=groups)
    assert _unseen(source, mine).cases[0].id == ("3" if is_refused else "2")
    if not is_refused:
        refuse_leak(source, mine, ["2"])
        return
    with pytest.raises(ModelError, match="another case of group P"):
        refuse_leak(source, mine, ["2"])


def test_groups_of_borrowed_and_of_unknown_cases_count(tmp_path: Path) -> None:
    groups = {"7": "P", "8": "P"}
    folder = model_of(
        tmp_path, "x", "1", train=("1",), borrowed=dataset_of("mine", "7", groups=groups)
    )
    mine = dataset_of("mine", "8", groups=groups)
    with pytest.raises(ModelError, match="another case of group P"):
        refuse_leak(open_source(folder.path), mine, ["8"])
    imported = model_of(tmp_path, "mine", "7", train=("7",))
    imported.dataset.unlink()
    both = dataset_of("mine", "7", "8", groups=groups)
    with pytest.raises(ModelError, match="another case of group P"):
        refuse_leak(open_source(imported.path), both, ["8"])


def test_a_start_without_labels_has_seen_none(tmp_path: Path) -> None:
    start = StartModel(
        folder="gone", dataset="x", configuration="3d_fullres", fold="pretrained", digest="1"
    )
    assert seen(model_of(tmp_path, "x", "1", train=("1",), start=start)) == Seen(frozenset({"1"}))


@pytest.mark.parametrize("what", ["start gone", "start trained again", "files changed", "imported"])
def test_what_is_not_known_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    first = model_of(tmp_path, "mine", "7", "8", train=("7",))
    folder = model_of(tmp_path, "x", "1", train=("1",), start=started_from(first))
    if what == "start gone":
        shutil.rmtree(first.path)
    elif what == "start trained again":
        (first.fold("3d_fullres", "0").weights).write_bytes(b"others")
    elif what == "files changed":
        serial.save(dataset_of("x", "1", "5"), folder.dataset)
        content = folder.dataset.read_text().replace('"digest": "1"', '"digest": "9"')
        folder.dataset.write_text(content)
    else:
        folder.dataset.unlink()
    unknown = seen(folder).unknown
    assert len(unknown) == 1
    assert unknown[0].startswith("mine" if what.startswith("start") else "x")
    source = open_source(folder.path)
    refuse_leak(source, dataset_of("z", "4"), ["4"])
    assert "It is not known which images" in caplog.text
    caplog.clear()
    refuse_leak(source, dataset_of("z", "4"), [])  # nothing is held out, so nothing can leak
    assert not caplog.text
