"""`selfseg import`: the whole way from nnU-Net's folder to label maps, and nothing half-written."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunetmodel
import numpy as np
import pytest
import SimpleITK
import tinymodel
import torch
from nnunetagreement import agreement
from typer.testing import CliRunner

from selfseg.bundles import export_model
from selfseg.cli.main import app
from selfseg.errors import ModelError, RecordError
from selfseg.importing import import_model, import_nnunet
from selfseg.inference.model import load_model
from selfseg.pipeline import predict_images
from selfseg.records import serial
from selfseg.requests import PredictRequest

CPU = torch.device("cpu")
# Axes that run backwards and in another order: their canonical order is not the stored one.
TURNED = (0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0)


def toy_plans(
    *, dims: int = 3, residual: bool = False, transpose: tuple[int, int, int] = (0, 1, 2)
) -> dict[str, Any]:
    arguments = nnunetmodel.network_kwargs(dims=dims, residual=residual)
    spacing, patch = ([3.0, 1.0, 1.0], [4, 16, 16]) if dims == 3 else ([1.0, 1.0], [16, 16])
    name = "3d_fullres" if dims == 3 else "2d"
    item = nnunetmodel.configuration(arguments, spacing=spacing, patch=patch)
    return nnunetmodel.plans({name: item}, transpose=transpose)


def toy_network(described: dict[str, Any], name: str = "3d_fullres") -> nnunetmodel.NnUNet:
    torch.manual_seed(1)
    item = described["configurations"][name]
    network = nnunetmodel.NnUNet(item["architecture"]["arch_kwargs"], channels=1, outputs=3)
    with torch.no_grad():  # all labels win somewhere
        head = network.decoder.seg_layers[-1]
        logits = network(torch.randn(1, 1, *item["patch_size"]))[0]
        head.bias -= logits.transpose(0, 1).flatten(1).mean(1)
    return network.eval()


def write_image(path: Path, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> np.ndarray:
    """Write an image with a border of zeros; return its array (z, y, x) as stored."""
    array = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    array[:, :3] = 0
    array[..., -2:] = 0
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetDirection(TURNED)
    path.parent.mkdir(parents=True)
    SimpleITK.WriteImage(image, str(path))
    return array


@pytest.mark.parametrize(
    ("dims", "residual", "transpose", "mirror"),
    [
        (3, False, (0, 1, 2), (0, 1, 2)),
        (3, True, (1, 0, 2), ()),
        (2, False, (2, 0, 1), (0, 1)),
    ],
)
def test_predictions_are_those_of_nnunet(
    tmp_path: Path,
    dims: int,
    residual: bool,
    transpose: tuple[int, int, int],
    mirror: tuple[int, ...],
) -> None:
    described = toy_plans(dims=dims, residual=residual, transpose=transpose)
    name = "3d_fullres" if dims == 3 else "2d"
    network = toy_network(described, name)
    source = nnunetmodel.write_model(tmp_path / "nn", network, described, name, mirror=mirror)
    import_nnunet(source, output=tmp_path / "model", workspace=tmp_path)
    native = np.empty(3)
    native[list(transpose)] = [4.0, 1.2, 0.9]  # coarse along the first working axis
    shape = np.empty(3, int)
    shape[list(transpose)] = [9, 31, 24]
    z, y, x = (int(n) for n in shape)
    path = tmp_path / "images" / "case_0000.nii.gz"
    array = write_image(path, (z, y, x), tuple(native))
    report = predict_images(
        PredictRequest(source=path.parent, output=tmp_path / "out", model=tmp_path / "model")
    )
    assert report.done == ("case",)
    expected = nnunetmodel.predict(network, array, tuple(native), described, name, mirror=mirror)
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out" / "case.nii.gz")))
    assert set(np.unique(expected)) == {0, 1, 2}
    assert (found != expected).mean() <= 2e-4


def test_all_that_was_read_is_printed_and_the_model_is_usable(tmp_path: Path) -> None:
    described = toy_plans()
    network = toy_network(described)
    source = nnunetmodel.write_model(
        tmp_path / "nn", network, described, folds=("0", "1", "all"), mirror=None
    )
    workspace = tmp_path / "ws"
    done = CliRunner().invoke(app, ["import", str(source), "--workspace", str(workspace)])
    assert done.exit_code == 0, done.output
    assert (
        "3d_fullres fold all: fold_all/checkpoint_final.pth, 7 epochs of nnUNetTrainer"
        in done.output
    )
    model = load_model(workspace / "Dataset001_Toy", device=CPU)
    assert model.folds == ("0", "1")  # fold `all` saw the cases of the others
    assert model.mirror_axes == ()
    image = torch.randn(1, 1, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.network(image)[0], network(image)[0], rtol=1e-4, atol=1e-5)
    again = CliRunner().invoke(app, ["import", str(source), "--workspace", str(workspace)])
    assert isinstance(again.exception, ModelError)
    assert "exists already" in again.exception.message


def test_a_zip_of_several_configurations_becomes_one_model(tmp_path: Path) -> None:
    results = tmp_path / "Dataset001_Toy"
    low, cascade = toy_plans(), toy_plans()
    item = low["configurations"].pop("3d_fullres")
    low["configurations"] = {"3d_lowres": {**item, "spacing": [6.0, 2.0, 2.0]}}
    cascade["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres", "previous_stage": "3d_lowres",
    }  # fmt: skip
    arguments = item["architecture"]["arch_kwargs"]
    after = nnunetmodel.NnUNet(arguments, channels=3, outputs=3)  # two labels come in
    nnunetmodel.write_model(results / "a__b__3d_lowres", toy_network(toy_plans()), low, "3d_lowres")
    nnunetmodel.write_model(results / "a__b__3d_cascade", after, cascade, "3d_cascade_fullres")
    with pytest.raises(ModelError, match="needs 3d_lowres, which is not in it"):
        import_nnunet(results / "a__b__3d_cascade", output=tmp_path / "no", workspace=tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "models"), "zip", tmp_path, results.name))
    result = import_nnunet(archive, output=None, workspace=tmp_path / "ws")
    assert {item.name for item in result.plan.configurations} == {"3d_lowres", "3d_cascade"}
    write_image(tmp_path / "images" / "case_0000.nii.gz", (9, 20, 24), (4.0, 1.2, 0.9))
    report = predict_images(
        PredictRequest(
            source=tmp_path / "images",
            output=tmp_path / "out",
            model=result.folder,
            configuration="3d_cascade",
            tta=False,
        )
    )
    assert report.done == ("case",)
    shutil.copytree(results / "a__b__3d_lowres", results / "other__b__3d_lowres")
    with pytest.raises(ModelError, match="are both 3d_lowres"):
        import_nnunet(results, output=tmp_path / "no", workspace=tmp_path)


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        ("plans", "cannot be a folder's name"),
        ("labels", "regions_class_order"),
        ("shapes", "weights do not fit the plans"),
        ("pickle", "neither tensor nor plain value"),
        ("folds", "no fold_"),
        ("json", "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, spoil: str, finding: str
) -> None:
    described, dataset = toy_plans(), dict(nnunetmodel.DATASET)
    network = toy_network(described)
    if spoil == "plans":
        described["dataset_name"] = "../outside"
    if spoil == "labels":
        dataset["labels"] = {"background": 0, "core": [1, 2], "rim": 2}
    if spoil == "shapes":
        arguments = described["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [4, 6, 8]
    source = nnunetmodel.write_model(tmp_path / "nn", network, described, dataset=dataset)
    path = source / "fold_0" / "checkpoint_final.pth"
    if spoil == "pickle":
        torch.save({"network_weights": print}, path)
    if spoil == "folds":
        path.rename(path.with_name("checkpoint_latest.pth"))
    if spoil == "json":
        (source / "plans.json").write_text("{")
    workspace = tmp_path / "ws"
    with pytest.raises(ModelError, match=finding) as caught:
        import_nnunet(source, output=None, workspace=workspace)
    assert caught.value.remedy
    assert not any(workspace.iterdir())
    assert not (tmp_path / "outside").exists()


def saved(folder: Path) -> Path:
    """Write a model folder of two folds with random weights."""
    tinymodel.save_model(folder, tinymodel.tiny_plan(), folds=("0", "1"))
    (folder / "models" / "3d_fullres" / "fold_0" / "checkpoint").mkdir()
    (folder / "models" / "3d_fullres" / "fold_0" / "history.jsonl").write_text("{}")
    return folder


def test_a_model_in_one_file_is_called_by_its_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("3d_lowres", "3d_fullres")
    lowres, fullres = (tinymodel.tiny_configuration(name) for name in names)  # type: ignore[arg-type]
    cascade = fullres.model_copy(update={"name": "3d_cascade", "previous_stage": "3d_lowres"})
    file = tmp_path / "staged.zip"
    staged = tinymodel.save_model(tmp_path / "model", tinymodel.tiny_plan(lowres, cascade))
    export_model(staged.path, file)
    write_image(tmp_path / "images" / "case_0000.nii.gz", (9, 20, 24), (2.0, 1.0, 1.0))
    asked = PredictRequest(source=tmp_path / "images", output=tmp_path / "out", model=file)
    with pytest.raises(ModelError, match="several trained models") as error:
        predict_images(asked)
    assert f"-m {file} --config 3d_cascade" in str(error.value)
    with caplog.at_level(logging.INFO):
        predict_images(replace(asked, configuration="3d_cascade", device="cpu", tta=False))
    assert f"Model: phantom 3d_cascade (fold 0) ({file})" in caplog.messages
    assert "selfseg-model-" not in f"{error.value} {caplog.text}"


def test_a_model_in_one_file_predicts_as_its_folder(tmp_path: Path) -> None:
    folder, file = saved(tmp_path / "model"), tmp_path / "out" / "model.zip"
    done = CliRunner().invoke(app, ["export", str(folder), "-o", str(file), "--json"])
    assert done.exit_code == 0, done.output
    assert "plan.json" in json.loads(done.stdout)["files"]
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
    fold = "models/3d_fullres/fold_{}/{}"
    assert names == {
        "plan.json",
        *(fold.format(k, n) for k in (0, 1) for n in ("fold.json", "weights.safetensors")),
    }
    write_image(tmp_path / "images" / "case_0000.nii.gz", (9, 20, 24), (2.0, 1.0, 1.0))
    imported = import_model(file, output=None, workspace=tmp_path / "ws")
    assert imported.folder == tmp_path / "ws" / "phantom"
    assert [item.trained.fold for item in imported.folds] == ["0", "1"]
    maps = []
    for index, model in enumerate((folder, file, imported.folder)):
        output = tmp_path / f"out{index}"
        report = predict_images(
            PredictRequest(source=tmp_path / "images", output=output, model=model, tta=False)
        )
        assert report.done == ("case",)
        maps.append((output / "case.nii.gz").read_bytes())
    assert maps[0] == maps[1] == maps[2]


def test_files_that_no_export_wrote_are_refused(tmp_path: Path) -> None:
    folder, file = saved(tmp_path / "model"), tmp_path / "model.zip"
    export_model(folder, file)
    whole = file.read_bytes()
    weights = "models/3d_fullres/fold_0/weights.safetensors"

    def changed(name: str, content: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
            for entry in old.namelist():
                if entry != name:
                    new.writestr(entry, old.read(entry))
            new.writestr(name, content)

    other = tinymodel.tiny_plan(tinymodel.tiny_configuration(spacing_mm=(3.0, 1.0, 1.0)))
    cases = (
        ("run.py", b"1", "what no model has"),
        ("models/3d_fullres/fold_0/x.safetensors", b"1", "what no model has"),
        ("models/x/fold_y/weights.safetensors", b"1", "what no model has"),
        (weights, b"1", "no readable safetensors"),
        ("plan.json", b"{}", "not a valid Plan"),
        ("plan.json", serial.text(other).encode(), "trained with another plan"),
    )
    for name, content, finding in cases:
        changed(name, content)
        with pytest.raises((ModelError, RecordError), match=finding):
            import_model(file, output=None, workspace=tmp_path / "ws")
        assert not any((tmp_path / "ws").iterdir())
    file.write_bytes(whole[:-200])
    with pytest.raises(ModelError):
        import_model(file, output=None, workspace=tmp_path / "ws")
    with pytest.raises(ModelError, match="no such folder or file"):
        import_model(tmp_path / "absent", output=None, workspace=tmp_path / "ws")
    with pytest.raises(ModelError, match="not one trained model"):
        export_model(tmp_path / "ws", tmp_path / "x.zip")
    with pytest.raises(ModelError, match=r"ws: is a folder"):
        export_model(folder, tmp_path / "ws")


def test_a_model_of_ours_is_said_to_be_one(tmp_path: Path) -> None:
    made = tinymodel.save_model(tmp_path / "my model", tinymodel.tiny_plan())
    for source in (made.path, made.models):
        with pytest.raises(ModelError, match="is a model folder of selfseg already") as refused:
            import_model(source, output=tmp_path / "copy", workspace=tmp_path)
        assert f"selfseg predict -m '{made.path}'" in refused.value.remedy
    assert not (tmp_path / "copy").exists()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "tta"),
    [(["hippocampus_003", "hippocampus_330"], False), (["hippocampus_008"], True)],
)
def test_a_real_model_predicts_as_nnunet_did(tmp_path: Path, cases: list[str], tta: bool) -> None:
    shares = agreement(tmp_path, cases, tta=tta)
    assert min(shares.values()) >= 0.9999, shares
