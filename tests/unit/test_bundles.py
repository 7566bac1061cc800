"""`selfseg export`: what goes into the file, and that nobody's name does."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from tinymodel import save_model, tiny_configuration, tiny_plan
from typer.testing import CliRunner

from selfseg.bundles import export_model, unpack_bundle
from selfseg.cli.main import app
from selfseg.errors import ModelError
from selfseg.inference.trained import changed_members, model_digest
from selfseg.records import serial
from selfseg.records.estimate import Estimate
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Plan
from selfseg.records.selection import CandidateScore, Member, Selection
from selfseg.records.shape_model import ShapeModelRecord, ShapeModels
from selfseg.workspace.dataset import DatasetFolder

NOTHING = Estimate(value=0.5, lower=0.4, upper=0.6)
PATIENT = "SMITH_1962"


def staged_plan() -> Plan:
    cascade = tiny_configuration().model_copy(
        update={"name": "3d_cascade", "previous_stage": "3d_lowres"}
    )
    return tiny_plan(
        tiny_configuration("2d"), tiny_configuration(), tiny_configuration("3d_lowres"), cascade
    )


@pytest.fixture
def trained(tmp_path: Path) -> DatasetFolder:
    """Return four configurations of three folds, trained on patients."""
    folder = save_model(tmp_path / "model", staged_plan(), folds=("0", "1", "all"))
    for description in folder.models.rglob("fold.json"):
        fold = serial.load(TrainedFold, description)
        cases = {"train_cases": (PATIENT,), "validation_cases": (f"{PATIENT}_b",)}
        serial.save(fold.model_copy(update=cases), description)
    shape = ShapeModelRecord(
        name="core", kind="linear", code=2, cases=(PATIENT,), held_out=(), dice=1, low=0.5,
        accepted=False, because="",
    )  # fmt: skip
    shapes = ShapeModels(
        source="", grid=16, box_margin=0.1, axes=(0, 1, 2), models=(shape,), seconds=0.0
    )
    serial.save(shapes, folder.fold("3d_cascade", "0").shapes)
    return folder


def select(folder: DatasetFolder, name: str, *folds: str) -> None:
    configuration = next(c for c in staged_plan().configurations if c.name == name)
    candidate = CandidateScore(
        members=(configuration.name,), score=NOTHING, difference=NOTHING, cost=1.0,
        labels={"core": 0.5}, cases={PATIENT: 0.5},
    )  # fmt: skip
    weights = tuple(model_digest(folder, configuration, fold) for fold in folds)
    member = Member(configuration=configuration.name, folds=folds, weights=weights)
    selection = Selection(
        dataset="phantom", metric="dice", tolerance_mm=1.0, folds=folds, members=(member,),
        postprocessing=(), score=NOTHING, score_postprocessed=NOTHING, candidates=(candidate,),
        trials=(), decisions=(),
    )  # fmt: skip
    serial.save(selection, folder.selection)


def test_a_selection_goes_with_its_members_and_stages_alone(
    trained: DatasetFolder, tmp_path: Path
) -> None:
    select(trained, "3d_cascade", "0", "1")
    exported = export_model(trained.path, tmp_path / "m.zip")
    assert exported.folds == ("3d_cascade: 0, 1", "3d_lowres: 0, 1")
    assert "selection.json" in exported.files
    assert "selection.json names these" in exported.because
    made = DatasetFolder(tmp_path / "made")
    made.path.mkdir()
    plan = unpack_bundle(tmp_path / "m.zip", made.path)
    assert not changed_members(made, plan, serial.load(Selection, made.selection))


def test_nobody_is_named_in_a_file(trained: DatasetFolder, tmp_path: Path) -> None:
    select(trained, "3d_cascade", "0", "1")
    export_model(trained.path, tmp_path / "m.zip")
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert "models/3d_cascade/fold_0/shapes.json" in contents
    assert not [name for name, content in contents.items() if PATIENT.encode() in content]


def test_without_a_usable_selection_all_goes(trained: DatasetFolder, tmp_path: Path) -> None:
    everything = tuple(
        f"{name}: 0, 1, all" for name in ("2d", "3d_fullres", "3d_lowres", "3d_cascade")
    )
    exported = export_model(trained.path, tmp_path / "m.zip")
    assert sorted(exported.folds) == sorted(everything)
    assert "there is no selection" in exported.because
    select(trained, "2d", "0")
    trained.fold("2d", "0").weights.write_bytes(trained.fold("2d", "1").weights.read_bytes())
    exported = export_model(trained.path, tmp_path / "later.zip")
    assert sorted(exported.folds) == sorted(everything)
    assert "2d fold 0" in exported.because
    assert "selection.json" not in exported.files


def test_what_is_asked_for_goes(trained: DatasetFolder, tmp_path: Path) -> None:
    select(trained, "2d", "0", "1")
    file = tmp_path / "m.zip"
    only = export_model(trained.path, file, configurations=["3d_fullres"], folds=["1"])
    assert only.folds == ("3d_fullres: 1",)
    assert set(only.files) == {
        "plan.json",
        "models/3d_fullres/fold_1/fold.json",
        "models/3d_fullres/fold_1/weights.safetensors",
    }
    assert "the selection, which needs others, stays behind" in only.because
    file.unlink()
    staged = export_model(trained.path, file, configurations=["3d_cascade"], folds=["1"])
    assert staged.folds == ("3d_cascade: 1", "3d_lowres: 0, 1")
    file.unlink()
    both = export_model(trained.path, file, configurations=["3d_fullres", "2d"])
    assert both.folds == ("3d_fullres: 0, 1, all", "2d: 0, 1, all")
    assert "selection.json" in both.files
    for configurations, folds, finding in (
        (["2.5d"], None, r"2\.5d not trained; trained there: 2d: 0, 1, all"),
        (["2d"], ["0", "7"], "2d fold 7 not trained"),
    ):
        with pytest.raises(ModelError, match=finding):
            export_model(trained.path, tmp_path / "x", configurations=configurations, folds=folds)


def test_the_command_says_what_went(trained: DatasetFolder, tmp_path: Path) -> None:
    command = ["export", str(trained.path), "-o", str(tmp_path / "m.zip")]
    shown = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert "2d: 0, 1, all" in shown["folds"]
    (tmp_path / "m.zip").unlink()
    done = CliRunner().invoke(app, [*command, "--config", "2d", "--folds", "0,1"])
    assert done.exit_code == 0, done.output
    assert "without the ids of cases" in done.stdout
    assert "Folds of 2d: 0, 1 (asked for)" in done.stdout
    refused = CliRunner().invoke(app, ["export", "x", "--nnunet", "-o", "y", "--folds", "0"])
    assert "--nnunet writes a data set" in str(refused.exception)


def test_a_file_that_is_there_is_not_replaced(trained: DatasetFolder, tmp_path: Path) -> None:
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"an image")
    with pytest.raises(ModelError, match=f"-o {file}: exists already") as refused:
        export_model(trained.path, file)
    assert "another file" in refused.value.remedy
    assert file.read_bytes() == b"an image"
