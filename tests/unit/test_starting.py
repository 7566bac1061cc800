"""Which models can be started from: folders of ours, files, nnU-Net's own."""

from __future__ import annotations

from pathlib import Path

import nnunetmodel
import pytest
import torch
from racedata import write_unraced
from tinymodel import save_model, tiny_plan

from selfseg.bundles import export_model
from selfseg.errors import ModelError
from selfseg.importing import import_model
from selfseg.networks.weights import load_weights, save_weights
from selfseg.records import serial
from selfseg.records.transfer import Start
from selfseg.requests import StartRequest
from selfseg.starting import opened_start, pinned, start_of_fold
from selfseg.training.start import open_source


def test_a_folder_of_ours_is_read_in_place(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_plan())
    with opened_start(StartRequest(folder.path)) as source:
        assert source.files == folder.path


def test_a_file_starts_as_its_folder_does(tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "model.zip"
    save_model(folder, tiny_plan(), folds=("0", "1"))
    export_model(folder, file)
    known = open_source(folder, fold="1")
    with opened_start(StartRequest(file, fold="1")) as source:
        assert source.files.is_dir()  # as long as it is looked at
    assert not source.files.exists()
    assert all(torch.equal(source.weights[name], known.weights[name]) for name in known.weights)
    assert source.model == known.model.model_copy(update={"folder": str(file)})


def test_a_model_of_nnunet_needs_no_import_before(tmp_path: Path) -> None:
    kwargs = nnunetmodel.network_kwargs()
    item = nnunetmodel.configuration(kwargs, spacing=[3.0, 1.0, 1.0], patch=[4, 16, 16])
    network = nnunetmodel.NnUNet(kwargs, channels=1, outputs=3)
    plans = nnunetmodel.plans({"3d_fullres": item})
    folder = nnunetmodel.write_model(tmp_path / "nn", network, plans)
    imported = import_model(folder, output=tmp_path / "imported", workspace=tmp_path).folder
    known = open_source(imported)
    sources = []
    for _ in range(2):  # a training that goes on opens it again
        with opened_start(StartRequest(folder)) as source:
            sources.append(source)
    assert sources[0].model == sources[1].model
    assert sources[0].model == known.model.model_copy(update={"folder": str(folder)})
    weights = sources[0].weights
    assert all(torch.equal(weights[name], known.weights[name]) for name in known.weights)
    assert sources[0].labels == tuple(nnunetmodel.DATASET["labels"])[1:]
    assert sources[0].seen.unknown  # nobody knows which cases it was trained on


def test_what_is_no_model_is_refused_in_the_words_of_train(tmp_path: Path) -> None:
    found = {tmp_path: "no trained model", tmp_path / "nowhere": "no such folder or model file"}
    for path, finding in found.items():
        with (
            pytest.raises(ModelError, match=rf"--init: .*{finding}"),
            opened_start(StartRequest(path)),
        ):
            pass
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ModelError), opened_start(StartRequest(tmp_path / "text.zip")):
        pass


def test_a_plan_starts_from_the_weights_it_was_made_to_fit(tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tiny_plan(dataset="other"), folds=("0", "1"))
    known = write_unraced(tmp_path)
    start = Start(folder="other", configuration="3d_fullres")

    def from_fold(fold: str, start: Start) -> str:
        item = known.plan.configurations[0].model_copy(update={"start": start})
        source = start_of_fold(known, item, fold, ())
        assert source is not None
        return source.model.fold

    with opened_start(StartRequest(other.path)) as source:
        whole, first = pinned(start, source), pinned(start.model_copy(update={"fold": "0"}), source)
    assert (len(whole.weights), len(first.weights)) == (2, 1)
    assert [from_fold(fold, whole) for fold in ("0", "1", "2")] == ["0", "1", "0"]
    weights = load_weights(other.fold("3d_fullres", "1").weights)
    save_weights(
        {name: values + 1 for name, values in weights.items()},
        other.fold("3d_fullres", "1").weights,
    )
    assert from_fold("0", whole) == from_fold("1", first) == "0"
    place = "start of 3d_fullres in plan.json: the weights of other 3d_fullres fold 1 "
    with pytest.raises(ModelError, match=place) as caught:
        from_fold("1", whole)
    assert "Plan again with --init" in caught.value.remedy
    assert from_fold("1", start) == "1"  # not pinned, as those of plans from before


def test_digests_of_plans_from_before_are_what_they_were() -> None:
    start = Start(folder="other")
    assert "weights" not in start.model_dump_json(context=serial.FOR_DIGEST)
    changed = start.model_copy(update={"weights": ("1",)})
    assert serial.digest(start) != serial.digest(changed)
