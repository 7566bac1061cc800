"""`selfseg predict --engine`: the same segmentation, refused at once where it cannot compute."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan
from typer.testing import CliRunner

from selfseg import pipeline
from selfseg.cli.main import app
from selfseg.errors import DeviceError, SelfSegError
from selfseg.inference import openvino_engine
from selfseg.inference.openvino_engine import TOLERANCE, Program
from selfseg.inference.predictor import PredictionReport
from selfseg.networks import device as devices
from selfseg.records.model import Engine
from selfseg.requests import PredictRequest

installed = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
FLOAT16 = 2**-11  # rounding of stored probabilities


def write_case(folder: Path) -> None:
    array = np.random.default_rng(0).normal(1, 1, (11, 20, 18)).astype(np.float32)
    (folder / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "in" / "a.nii.gz"))


def request(folder: Path, engine: Engine, **changes: str) -> PredictRequest:
    return PredictRequest(
        source=folder / "in", output=folder / engine, model=folder / "model", device="cpu",
        probabilities=not changes, engine=engine, **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def predicted(folder: Path, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map and the probabilities of the case."""
    assert pipeline.predict_images(request(folder, engine)).done == ("a",)
    label_map = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / engine / "a.nii.gz")))
    with np.load(folder / engine / "a_probabilities.npz", allow_pickle=False) as stored:
        return label_map, stored["probabilities"].astype(np.float32)


@installed
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_both_engines_give_the_same_segmentation(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = tiny_configuration("2d" if name == "2d" else "3d_fullres")
    save_model(tmp_path / "model", tiny_plan(configuration), folds=("0", "1"))
    write_case(tmp_path)
    with caplog.at_level(logging.INFO):
        labels, probabilities = predicted(tmp_path, "openvino")
    used = [record for record in caplog.records if "computed by OpenVINO" in record.message]
    assert {record.message.split(":")[0] for record in used} == {f"{name} fold 0", f"{name} fold 1"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    expected_labels, expected = predicted(tmp_path, "torch")
    assert np.abs(probabilities - expected).max() <= TOLERANCE + FLOAT16
    second, first = np.sort(expected, axis=0)[-2:]
    clear = first - second > 4 * (TOLERANCE + FLOAT16)
    assert clear.mean() > 0.9
    assert len(np.unique(expected_labels)) > 1
    np.testing.assert_array_equal(labels[clear], expected_labels[clear])
    assert sorted(path.name for path in (tmp_path / "openvino").iterdir()) == [
        ".predicted", "a.nii.gz", "a_probabilities.npz",
    ]  # fmt: skip


def test_a_network_that_differs_is_segmented_as_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(network: torch.nn.Module, _: torch.Tensor) -> Program:
        return lambda batch: -network(batch)[0]

    monkeypatch.setattr(openvino_engine, "compile_network", wrong)
    monkeypatch.setattr(openvino_engine, "load_openvino", lambda: None)
    save_model(tmp_path / "model", tiny_plan(), folds=("0", "1"))
    write_case(tmp_path)
    made = predicted(tmp_path, "openvino")
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(":")[0] for text in warned] == ["3d_fullres fold 0", "3d_fullres fold 1"]
    assert all("torch computes instead" in text for text in warned)
    for ours, theirs in zip(made, predicted(tmp_path, "torch"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_the_package_it_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SelfSegError, match="package cannot be used here") as caught:
        pipeline.predict_images(request(tmp_path, "openvino"))  # nor is the model looked for
    assert ".[openvino]" in caught.value.remedy
    assert not (tmp_path / "openvino").exists()


def test_a_cuda_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "select_device", lambda _: torch.device("cuda", 0))
    with pytest.raises(DeviceError, match="CPUs only, but the device is cuda:0") as caught:
        pipeline.predict_images(request(tmp_path, "openvino"))
    assert "--device cpu" in caught.value.remedy
    assert not (tmp_path / "openvino").exists()


def test_a_limit_of_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--max-memory could not be kept") as caught:
        pipeline.predict_images(request(tmp_path, "openvino", max_memory="4GB"))
    assert "Leave out --engine or --max-memory" in caught.value.remedy
    assert not (tmp_path / "openvino").exists()


def test_the_command_passes_the_engine_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PredictRequest] = []

    def predict_images(given: PredictRequest) -> PredictionReport:
        asked.append(given)
        return PredictionReport((), ())

    monkeypatch.setattr(pipeline, "predict_images", predict_images)
    command = ["predict", "-i", "in", "-o", "out"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--engine", "openvino"]).exit_code == 0
    assert [given.engine for given in asked] == ["torch", "openvino"]
    refused = CliRunner().invoke(app, [*command, "--engine", "abacus"])
    assert refused.exit_code == 2
    assert len(asked) == 2


CONVERSION = """
import torch
from selfseg.inference.openvino_engine import OpenVINONetwork, check_engine
check_engine("openvino", torch.device("cpu"), limited=False)
class Nothing(torch.nn.Conv2d):
    def forward(self, x):
        return (super().forward(x),)
with torch.no_grad():
    OpenVINONetwork(Nothing(1, 2, 3), "tiny", regions=False)(torch.zeros(1, 1, 8, 8))
import sys
print(sys.modules["openvino_telemetry"], "openvino" in sys.modules)
"""


@installed
def test_nothing_is_reported_and_no_file_left(tmp_path: Path) -> None:
    quiet = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", CONVERSION], capture_output=True, text=True, check=True,
        env={**quiet, "HOME": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["None", "True"]
    assert not done.stderr
    assert not list(tmp_path.iterdir())
