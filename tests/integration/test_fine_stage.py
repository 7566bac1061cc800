"""The fine stage: trained on out-of-fold crops, started at the coarse encoder, pasted back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from cascades import CASES, FEW, make_workspace, previous_maps, spread_labels, train
from commandline import selfseg
from tinymodel import tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg import folds, pipeline, requests
from selfseg.errors import ModelError, PlanError, SelfSegError
from selfseg.inference.model import Model
from selfseg.inference.predictor import predict_cases
from selfseg.io.store import open_array
from selfseg.io.unlabeled import list_cases
from selfseg.networks.one_hot import OneHotInput
from selfseg.networks.weights import load_weights
from selfseg.plan_checks import check_plan
from selfseg.preprocessing.crops import Cropper
from selfseg.records import serial
from selfseg.records.crop import Crop
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.model import TrainedFold
from selfseg.records.network import DualChannel, GatedEncoders, plain_part
from selfseg.records.plan import Plan
from selfseg.training.second_encoder import source_weights
from selfseg.workspace.dataset import DatasetFolder

CROP = Crop(margin_mm=3.0, smallest_ml=0.01)
GATED = GatedEncoders(channels=1, source="previous_stage", frozen=True)


def make_fine(plan: Plan, **changes: object) -> Plan:
    """Return a plan whose cascade looks at crops, through two encoders."""
    *others, last = plan.configurations
    backbone = plain_part(last.network)
    assert backbone is not None
    network = DualChannel(backbone=backbone, variant=GATED)
    fine = last.model_copy(update={"crop": CROP, "network": network, **changes})
    return plan.model_copy(update={"configurations": (*others, fine)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    """Both folds of the coarse stage with maps that show labels, and a fold of the fine stage."""
    folder = make_workspace(tmp_path_factory.mktemp("fine"))
    serial.save(make_fine(serial.load(Plan, folder.plan)), folder.plan)
    for fold in ("0", "1"):
        train(folder, "3d_lowres", fold)
    spread_labels(folder)
    train(folder, "3d_cascade", "0")
    return folder


def test_both_encoders_start_at_the_coarse_fold_and_the_frozen_one_stays(
    trained: DatasetFolder,
) -> None:
    coarse = load_weights(trained.fold("3d_lowres", "0").weights)
    fine = load_weights(trained.fold("3d_cascade", "0").weights)
    names = [name for name in coarse if name.startswith("encoder.")]
    assert len(names) == 8
    assert all(torch.equal(fine[f"second.{name}"], coarse[name]) for name in names)
    first = fine["encoder.0.0.conv.weight"][:, :1] - coarse["encoder.0.0.conv.weight"]
    assert 0 < float(first.abs().max()) < 0.1  # the primary one has made three steps since
    assert fine["second.fusions.0.value.weight"].abs().max() > 0


def test_crops_are_those_of_the_maps_of_folds_that_held_the_case_out(
    trained: DatasetFolder,
) -> None:
    known = folds.open_planned(trained)
    request = requests.TrainRequest(configuration="3d_cascade", fold="0", **FEW)  # type: ignore[arg-type]
    job = folds.training_job(known, request)
    assert job.previous is not None
    assert job.previous.boxes is not None
    assert set(job.previous.boxes) == set(CASES)
    cropper = Cropper(CROP, known.plan.targets, job.configuration.patch)
    for case, path in previous_maps(trained).items():
        fold = serial.load(TrainedFold, path.parent.parent / "fold.json")
        assert case in fold.validation_cases
        label = np.asarray(open_array(job.previous.folder / f"{case}.b2nd")[:])
        spacing_mm = serial.load(PreprocessedCase, job.data / f"{case}.json").spacing_mm
        assert job.previous.boxes[case] == cropper.boxes(label, spacing_mm)
        assert job.previous.boxes[case]


def test_weights_of_a_fold_that_has_seen_held_out_cases_are_no_start(
    trained: DatasetFolder, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / trained.path.name)
    known = folds.open_planned(DatasetFolder(tmp_path / trained.path.name))
    fine = folds.find_configuration(known.plan, "3d_cascade")
    files = known.folder.fold("3d_lowres", "0")
    assert source_weights(known, fine, "0", CASES[:2]) == files.weights
    assert source_weights(known, fine, "all", ()) == files.weights
    with pytest.raises(SelfSegError, match="has seen held-out cases") as caught:
        source_weights(known, fine, "0", CASES[1:3])
    assert "selfseg train tiny 3d_lowres 0" in caught.value.remedy


def test_a_frozen_second_encoder_starts_at_a_model_and_not_at_random(
    trained: DatasetFolder, tmp_path: Path
) -> None:
    """With `source: fresh` the plan is accepted; a training of it needs --init."""
    root = tmp_path / "again"
    shutil.copytree(trained.path.parents[1], root)
    folder = DatasetFolder(root / trained.path.relative_to(trained.path.parents[1]))
    network = folds.find_configuration(serial.load(Plan, folder.plan), "3d_cascade").network
    assert isinstance(network, DualChannel)
    fresh = network.model_copy(update={"variant": GatedEncoders(channels=1, frozen=True)})
    plan = make_fine(serial.load(Plan, folder.plan), network=fresh)
    check_plan(plan)
    serial.save(plan, folder.plan)
    known = folds.open_planned(folder)
    alone = requests.TrainRequest(configuration="3d_cascade", fold="0", restart=True, **FEW)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="3d_cascade: the second encoder is frozen") as caught:
        folds.training_job(known, alone)
    assert "--init MODEL" in caught.value.remedy
    assert folds.training_job(known, replace(alone, restart=False)).start is None  # finished

    start = requests.StartRequest(folder.path, "3d_lowres", "0")
    made = pipeline.train_fold(folder.path.name, folder.path.parent, replace(alone, start=start))
    assert made.transfer is not None
    coarse = load_weights(folder.fold("3d_lowres", "0").weights)
    fine = load_weights(folder.fold("3d_cascade", "0").weights)
    names = [name for name in coarse if name.startswith("encoder.")]
    assert all(torch.equal(fine[f"second.{name}"], coarse[name]) for name in names)
    assert not torch.equal(fine["encoder.1.0.conv.weight"], coarse["encoder.1.0.conv.weight"])


def test_a_coarse_stage_that_finds_nothing_is_named(trained: DatasetFolder, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / trained.path.name)
    folder = DatasetFolder(tmp_path / trained.path.name)
    plan = serial.load(Plan, folder.plan)
    *others, fine = plan.configurations
    fine = fine.model_copy(update={"crop": Crop(smallest_ml=1e6)})
    serial.save(plan.model_copy(update={"configurations": (*others, fine)}), folder.plan)
    with pytest.raises(SelfSegError, match="found nothing in any of 2 cases") as caught:
        train(folder, "3d_cascade", "1")
    assert "smallest_ml" in caught.value.remedy


def test_predict_runs_both_stages(trained: DatasetFolder, tmp_path: Path) -> None:
    images = trained.path.parent.parent / "data" / "imagesTs"
    done = selfseg(
        "predict", "-i", images, "-o", tmp_path / "out", "-m", trained.path,
        "--config", "3d_cascade", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in images.iterdir():
        written = sitk.ReadImage(str(tmp_path / "out" / path.name.replace("_0000", "")))
        image = sitk.ReadImage(str(path))
        assert written.GetSize() == image.GetSize()
        assert written.GetSpacing() == pytest.approx(image.GetSpacing())


def test_plans_whose_stages_do_not_fit_are_refused(trained: DatasetFolder) -> None:
    plan = serial.load(Plan, trained.plan)
    check_plan(plan)
    backbone = plain_part(plan.configurations[-1].network)
    assert backbone is not None

    def complaint(**changes: object) -> str:
        with pytest.raises(PlanError) as caught:
            check_plan(make_fine(plan, **changes))
        return str(caught.value)

    def with_variant(**options: object) -> DualChannel:
        variant = GatedEncoders.model_validate({**GATED.model_dump(), **options})
        return DualChannel(backbone=backbone, variant=variant)

    assert "crop: there is no previous stage" in complaint(previous_stage=None)
    assert "crop.labels: bone, must be some of" in complaint(crop=Crop(labels=("bone",)))
    assert "channels: must be 1" in complaint(network=with_variant(channels=2))
    wider = backbone.model_copy(update={"features": (4, 12)})
    other = DualChannel(backbone=wider, variant=GATED)
    assert "must have the features" in complaint(network=other)


class Echo(nn.Module):
    """Answers with what the previous stage says."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        said = x[:, -self.labels :]
        return (10 * torch.cat((1 - said.sum(dim=1, keepdim=True), said), dim=1),)


@pytest.mark.parametrize(
    ("spacing_mm", "agreement"), [((4.0, 1.0, 1.5), 1.0), ((3.0, 2.0, 2.0), 0.9)]
)
def test_two_organs_come_back_where_they_are(
    tmp_path: Path, spacing_mm: tuple[float, float, float], agreement: float
) -> None:
    label = np.zeros((16, 40, 60), np.uint8)
    label[4:10, 8:20, 6:18] = 1
    label[6:8, 12:18, 8:14] = 4
    label[5:11, 10:24, 42:54] = 1
    speck = (slice(14, 15), slice(36, 38), slice(30, 32))
    label[speck] = 1
    image = np.random.default_rng(0).normal(size=label.shape).astype(np.float32)
    paths = {}
    for name, array in (("in/a.nii.gz", image), ("previous/a.nii.gz", label)):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((1.0, 1.5, 4.0))
        written.SetOrigin((3.0, -20.0, 11.0))
        written.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
        paths[name] = tmp_path / name
        paths[name].parent.mkdir()
        sitk.WriteImage(written, str(paths[name]))
    item = tiny_configuration("3d_lowres", spacing_mm=spacing_mm, patch=(4, 8, 8)).model_copy(
        update={
            "name": "3d_cascade",
            "previous_stage": "3d_lowres",
            "crop": Crop(margin_mm=4.0, smallest_ml=0.1),
        }
    )
    plan = tiny_plan(item)
    model = Model(Path(), plan, item, ("0",), (), OneHotInput(Echo(2), 2), torch.device("cpu"))
    cases = list_cases(tmp_path / "in", 1)
    previous = {"a": paths["previous/a.nii.gz"]}
    report = predict_cases(model, cases, tmp_path / "out", previous=previous)
    assert report.done == ("a",), report.failed
    result = sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))
    given = sitk.ReadImage(str(previous["a"]))
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, part)() == pytest.approx(getattr(given, part)())
    found = sitk.GetArrayFromImage(result)
    assert not found[speck].any()
    label[speck] = 0
    for value in (1, 4):
        both = np.count_nonzero((found == value) & (label == value))
        dice = 2 * both / (np.count_nonzero(found == value) + np.count_nonzero(label == value))
        assert dice >= agreement
