"""Validation of a fold: the held-out cases predicted as in real use, scored, and only once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from trainingjobs import CPU

from selfseg.errors import SelfSegError
from selfseg.inference import predictor
from selfseg.inference.trained import PlannedDataset
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File
from selfseg.records.metrics import MetricsTable
from selfseg.training.job import TrainingJob
from selfseg.training.validate import validate
from selfseg.workspace.dataset import DatasetFolder

IDS = ("a", "b", "c")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images of 6 × 20 × 18 voxels with values 1 and 4 in their label maps."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    root.mkdir()
    for name in IDS:
        label = np.zeros((6, 20, 18), np.uint8)
        label[2:5, 4:12, 4:10], label[2:5, 12:16, 4:10] = 1, 4
        image = (label + rng.random(label.shape)).astype(np.float32)
        for array, file in ((image, f"{name}_0000.nii.gz"), (label, f"{name}.nii.gz")):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((1.0, 1.0, 2.0))
            sitk.WriteImage(volume, str(root / file))
    return Dataset(
        name="phantom",
        root=str(root),
        layout="nnunet",
        channels=("channel 0",),
        labels=LABELS,
        cases=tuple(
            Case(
                id=name,
                images=(File(path=f"{name}_0000.nii.gz"),),
                reference=File(path=f"{name}.nii.gz"),
            )
            for name in IDS
        ),
    )


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """A trained fold (random weights) that holds out two of the three cases."""
    configuration = tiny_configuration()
    plan = tiny_plan(configuration)
    folder = save_model(tmp_path / "workspace" / "phantom", plan)
    return TrainingJob(
        plan=plan,
        configuration=configuration,
        fold="0",
        train_cases=IDS[:1],
        validation_cases=IDS[1:],
        data=tmp_path / "unused",
        output=folder.fold("3d_fullres", "0"),
        device=CPU,
        workers=1,
    )


def known(job: TrainingJob, dataset: Dataset) -> PlannedDataset:
    return PlannedDataset(DatasetFolder(job.output.path.parents[2]), job.plan, dataset)


def test_held_out_cases_are_predicted_and_scored_once(
    dataset: Dataset, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = validate(job, known(job, dataset))
    assert table is not None
    assert [case.case for case in table.cases] == ["b", "c"]
    assert serial.load(MetricsTable, job.output.validation / "scores.json") == table
    for name in ("b", "c"):
        predicted = sitk.ReadImage(str(job.output.validation / f"{name}.nii.gz"))
        assert predicted.GetSize() == (18, 20, 6)
        assert predicted.GetSpacing() == (1.0, 1.0, 2.0)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr(predictor, "predict_cases", never)
    assert validate(job, known(job, dataset)) == table


def test_without_held_out_cases_nothing_is_done(dataset: Dataset, job: TrainingJob) -> None:
    assert validate(replace(job, validation_cases=()), known(job, dataset)) is None
    assert not job.output.validation.exists()


def test_broken_image_is_named_and_no_scores_are_written(
    dataset: Dataset, job: TrainingJob
) -> None:
    (Path(dataset.root) / "b_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(SelfSegError, match="b_0000"):
        validate(job, known(job, dataset))
    assert not (job.output.validation / "scores.json").exists()


def test_corrected_reference_is_scored_again(dataset: Dataset, job: TrainingJob) -> None:
    first = validate(job, known(job, dataset))
    changed = [
        case.model_copy(
            update={"reference": case.reference.model_copy(update={"digest": "corrected"})}
        )
        for case in dataset.cases
        if case.reference is not None
    ]
    again = validate(job, known(job, dataset.model_copy(update={"cases": tuple(changed)})))
    assert first is not None
    assert again is not None
    assert first.basis != again.basis
