"""Low resolution, then full resolution with its segmentations: training, leaks, prediction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from cascades import CASES, FEW, make_workspace, previous_maps, spread_labels, train
from commandline import TINY_SPACING_MM, selfseg
from torch import Tensor, nn

from selfseg import folds, pipeline, preparing, requests
from selfseg.errors import CheckpointError, ModelError, PlanError, SelfSegError
from selfseg.inference import members, predictor
from selfseg.inference.find import find_models
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, load_model
from selfseg.inference.predictor import read_case
from selfseg.inference.trained import files_digest
from selfseg.io.unlabeled import list_cases
from selfseg.loading.batches import training_batches, validation_batches
from selfseg.loading.patches import PreviousStage
from selfseg.networks.one_hot import OneHotInput
from selfseg.plan_checks import check_plan
from selfseg.records import serial
from selfseg.records.augmentation import Augmentation
from selfseg.records.dataset import Dataset
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.selection.candidates import find_trained
from selfseg.status import read_status
from selfseg.workspace.dataset import DatasetFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    """Both folds of the previous stage, and a fold of the cascade."""
    folder = make_workspace(tmp_path_factory.mktemp("cascade"))
    for configuration, fold in (("3d_lowres", "0"), ("3d_lowres", "1"), ("3d_cascade", "0")):
        train(folder, configuration, fold)
    spread_labels(folder)
    return folder


@pytest.fixture
def copied(trained: DatasetFolder, tmp_path: Path) -> DatasetFolder:
    """A copy of the trained workspace, to spoil."""
    shutil.copytree(trained.path, tmp_path / "workspace" / trained.path.name)
    return DatasetFolder(tmp_path / "workspace" / trained.path.name)


def test_the_first_stage_must_be_trained(trained: DatasetFolder, tmp_path: Path) -> None:
    folder = DatasetFolder(tmp_path / trained.path.name)
    shutil.copytree(trained.path, folder.path, ignore=shutil.ignore_patterns("models"))
    done = selfseg("train", "tiny", "3d_cascade", "0", "--workspace", tmp_path, "--device", "cpu")
    assert done.returncode == 2
    assert "selfseg train tiny 3d_lowres 0" in " ".join(done.stderr.split())
    assert "selfseg train tiny 3d_lowres 1" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not folder.models.exists()


def test_only_the_missing_fold_is_named(copied: DatasetFolder) -> None:
    shutil.rmtree(copied.fold("3d_lowres", "1").path)
    with pytest.raises(SelfSegError, match="fold 1 of 3d_lowres is not trained") as caught:
        train(copied, "3d_cascade", "all")
    assert caught.value.remedy == "First run: 'selfseg train tiny 3d_lowres 1'."


def test_every_case_gets_the_map_of_the_fold_that_held_it_out(trained: DatasetFolder) -> None:
    for case, path in previous_maps(trained).items():
        fold = serial.load(TrainedFold, path.parent.parent / "fold.json")
        assert case in fold.validation_cases
        assert case not in fold.train_cases


def test_a_fold_that_saw_the_case_is_refused(copied: DatasetFolder) -> None:
    files = copied.fold("3d_lowres", "0")
    fold = serial.load(TrainedFold, files.description)
    leaking = (*fold.train_cases, fold.validation_cases[0])
    serial.save(fold.model_copy(update={"train_cases": leaking}), files.description)
    with pytest.raises(SelfSegError, match=f"was trained on {fold.validation_cases[0]}") as caught:
        train(copied, "3d_cascade", "1")
    assert "selfseg train tiny 3d_lowres 0 --restart" in caught.value.remedy


def test_a_fold_that_saw_another_case_of_the_group_is_refused(copied: DatasetFolder) -> None:
    dataset = serial.load(Dataset, copied.dataset)
    groups = {CASES[0]: "patient", CASES[3]: "patient"}
    cases = tuple(case.model_copy(update={"group": groups.get(case.id)}) for case in dataset.cases)
    serial.save(dataset.model_copy(update={"cases": cases}), copied.dataset)
    with pytest.raises(SelfSegError, match=r"case_000.*group") as caught:
        previous_maps(copied)
    assert "case_003" in str(caught.value)
    assert "case_001" not in str(caught.value)


def test_folds_of_a_model_on_all_cases_give_no_maps(copied: DatasetFolder) -> None:
    lowres = copied.fold("3d_lowres", "0").path
    shutil.copytree(lowres, copied.fold("3d_lowres", "all").path)
    shutil.rmtree(lowres)
    with pytest.raises(SelfSegError, match="fold 0 of 3d_lowres is not trained"):
        previous_maps(copied)


def test_a_model_of_another_plan_gives_no_maps(copied: DatasetFolder) -> None:
    plan = serial.load(Plan, copied.plan)
    full, low, last = plan.configurations
    other = low.preprocessing.model_copy(update={"spacing_mm": (7.0, 5.0, 5.0)})
    low = low.model_copy(update={"preprocessing": other})
    serial.save(plan.model_copy(update={"configurations": (full, low, last)}), copied.plan)
    with pytest.raises(SelfSegError, match="fold 0 of 3d_lowres was trained with another plan"):
        previous_maps(copied)


def test_a_model_of_other_references_gives_no_maps(copied: DatasetFolder) -> None:
    dataset = serial.load(Dataset, copied.dataset)
    first, *others = dataset.cases
    assert first.reference is not None
    changed = first.model_copy(
        update={"reference": first.reference.model_copy(update={"digest": "other"})}
    )
    serial.save(dataset.model_copy(update={"cases": (changed, *others)}), copied.dataset)
    with pytest.raises(SelfSegError, match="fold 1 of 3d_lowres was trained on other files") as e:
        previous_maps(copied)
    # fold 0 held the case out: its segmentation is that of the file that was there
    assert "fold 0 of 3d_lowres has held-out label maps that are missing or of" in str(e.value)


def test_lost_maps_are_named(copied: DatasetFolder) -> None:
    path = previous_maps(copied)[CASES[2]]
    path.unlink()
    with pytest.raises(SelfSegError, match="label maps of 3d_lowres are missing for 1 case;") as e:
        previous_maps(copied)
    assert e.value.remedy == "First run: 'selfseg train tiny 3d_lowres 1'."
    train(copied, "3d_lowres", "1")
    assert previous_maps(copied)[CASES[2]] == path


def test_maps_of_an_image_that_has_changed_are_refused(copied: DatasetFolder) -> None:
    dataset = serial.load(Dataset, copied.dataset)
    held_out = serial.load(TrainedFold, copied.fold("3d_lowres", "0").description).validation_cases
    cases = tuple(
        case.model_copy(update={"images": (case.images[0].model_copy(update={"digest": "new"}),)})
        if case.id == held_out[0]
        else case
        for case in dataset.cases
    )
    serial.save(dataset.model_copy(update={"cases": cases}), copied.dataset)
    known = folds.open_planned(copied)
    low = folds.find_configuration(known.plan, "3d_lowres")
    path = copied.fold("3d_lowres", "1").description  # as if it had been trained again
    fold = serial.load(TrainedFold, path)
    digest = files_digest(known.dataset, fold.train_cases)
    serial.save(fold.model_copy(update={"data_digest": digest}), path)
    assert known.fault(low, serial.load(TrainedFold, path)) == ""
    with pytest.raises(SelfSegError, match="fold 0 of 3d_lowres has held-out label maps") as e:
        previous_maps(copied)
    assert e.value.remedy == "First run: 'selfseg train tiny 3d_lowres 0'."


def test_a_cascade_is_outdated_when_its_first_stage_was_trained_again(
    copied: DatasetFolder,
) -> None:
    def state() -> str:
        (dataset,) = read_status("tiny", copied.path.parent)
        return next(f.state for f in dataset.folds if f.configuration == "3d_cascade")

    assert state() == "done"
    request = requests.TrainRequest(
        configuration="3d_lowres",
        fold="0",
        restart=True,
        seed=5,
        **FEW,  # type: ignore[arg-type]
    )
    pipeline.train_fold("tiny", copied.path.parent, request)
    assert state() == "outdated"
    with pytest.raises(CheckpointError, match="the weights of 3d_lowres"):
        train(copied, "3d_cascade", "0")
    known = folds.open_planned(copied)
    _, notes = find_trained(known)
    assert "3d_cascade fold 0 was trained after another 3d_lowres: left out" in notes


def last_stage(folder: DatasetFolder) -> tuple[Plan, Configuration]:
    plan = serial.load(Plan, folder.plan)
    return plan, folds.find_configuration(plan, "3d_cascade")


def test_previous_maps_are_made_again_when_they_change(copied: DatasetFolder) -> None:
    _, last = last_stage(copied)
    maps = previous_maps(copied)
    stage = preparing.prepare_previous(folds.open_planned(copied), last, maps, workers=0)
    assert stage is not None
    assert stage.folder == copied.previous_stage(last.preprocessing, "3d_lowres")
    files = {case: stage.folder / f"{case}.b2nd" for case in CASES}
    before = {case: file.stat().st_mtime_ns for case, file in files.items()}
    shutil.copy(maps[CASES[1]], maps[CASES[0]])
    preparing.prepare_previous(folds.open_planned(copied), last, maps, workers=0)
    changed = [case for case in CASES if files[case].stat().st_mtime_ns != before[case]]
    assert changed == [CASES[0]]


def test_validation_uses_out_of_fold_maps(
    copied: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied.fold("3d_cascade", "0").validation)
    given: dict[str, Path] = {}
    usual = predictor.predict_cases

    def watch(model, cases, output, *, previous, **options):  # type: ignore[no-untyped-def]
        given.update({case.id: previous[case.id] for case in cases})
        return usual(model, cases, output, previous=previous, **options)

    monkeypatch.setattr(predictor, "predict_cases", watch)
    train(copied, "3d_cascade", "0")
    validation = copied.fold("3d_lowres", "0").validation
    assert given == {case: validation / f"{case}.nii.gz" for case in CASES[:2]}


class Spy(nn.Module):
    """Stands for the networks of a cascade and keeps what they are given."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs, self.seen = outputs, torch.empty(0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.seen = x
        return (x.new_zeros((len(x), self.outputs, *x.shape[2:])),)


def test_prediction_and_training_see_the_same_input(trained: DatasetFolder) -> None:
    plan, last = last_stage(trained)
    dataset, maps = serial.load(Dataset, trained.dataset), previous_maps(trained)
    stage = preparing.prepare_previous(folds.open_planned(trained), last, maps, workers=0)
    model = load_model(trained.path, configuration="3d_cascade", device=CPU)
    assert isinstance(model.network, OneHotInput)
    root = Path(dataset.root)
    for case in dataset.cases:
        files = tuple(f.model_copy(update={"path": str(root / f.path)}) for f in case.images)
        whole = case.model_copy(update={"images": files})
        prepared = read_case(model, whole, maps[case.id])
        spy = Spy(model.outputs)
        OneHotInput(spy, len(plan.labels))(torch.from_numpy(prepared.image)[None])
        whole_patch = last.model_copy(
            update={"patch": prepared.image.shape[1:], "augmentation": Augmentation(), "batch": 1}
        )
        (batch,) = validation_batches(
            whole_patch,
            trained.preprocessed(last.preprocessing),
            [case.id],
            steps=1,
            seed=0,
            workers=0,
            device=CPU,
            previous=stage,
        )
        assert batch.image.shape[1] == plan.input_channels(last)
        assert torch.equal(batch.image, spy.seen)
        assert all(channel.any() for channel in batch.image[0, len(plan.channels) :])


def test_the_previous_map_is_cut_and_turned_like_the_label(trained: DatasetFolder) -> None:
    plan, last = last_stage(trained)
    stage = preparing.prepare_previous(
        folds.open_planned(trained), last, previous_maps(trained), workers=0
    )
    assert isinstance(stage, PreviousStage)
    quiet = {f"previous_{name}_p": 0.0 for name in ("morphology", "removal")}
    options = Augmentation(mirror_axes=(0, 1, 2)).model_copy(update=quiet)
    batches = training_batches(
        last.model_copy(update={"augmentation": options}),
        trained.preprocessed(last.preprocessing),
        CASES,
        steps=range(20),
        seed=1,
        workers=0,
        device=CPU,
        previous=stage,
    )
    differing = [
        float((batch.image[:, len(plan.channels) + index] != (batch.label == index + 1)).sum())
        for batch in batches
        for index in range(len(plan.labels))
    ]
    # References went through the same path twice: as labels and as previous segmentation.
    assert sum(differing) == 0


def test_predict_runs_both_stages(trained: DatasetFolder, tmp_path: Path) -> None:
    images = trained.path.parent.parent / "data" / "imagesTs"
    output = tmp_path / "out"
    done = selfseg(
        "predict", "-i", images, "-o", output, "-m", trained.path,
        "--config", "3d_cascade", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.replace("_0000", "") for path in images.iterdir())
    assert sorted(path.name for path in output.glob("[!.]*")) == names
    hidden = {path.name for path in output.rglob("*") if path.is_file()} - set(names)
    assert hidden == {name.replace(".nii.gz", ".json") for name in names}  # no map of 3d_lowres
    for name in names:
        written = sitk.ReadImage(str(output / name))
        image = sitk.ReadImage(str(images / name.replace(".nii.gz", "_0000.nii.gz")))
        assert written.GetSize() == image.GetSize()
        assert written.GetSpacing() == pytest.approx(tuple(reversed(TINY_SPACING_MM)))


def test_prediction_gives_the_second_stage_the_map_of_the_first(
    trained: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = trained.path.parent.parent / "data" / "imagesTs"
    cases = list_cases(images, 1)
    low = load_model(trained.path, configuration="3d_lowres", device=CPU)
    assert low.folds == ("0", "1")
    predict_ensemble(Ensemble((low,)), cases, tmp_path / "alone")
    given: dict[str, np.ndarray] = {}
    usual = predictor.predict_cases

    def watch(model, cases, output, *, previous=None, **options):  # type: ignore[no-untyped-def]
        for case, path in (previous or {}).items():
            given[case] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        return usual(model, cases, output, previous=previous, **options)

    monkeypatch.setattr(members, "predict_cases", watch)
    model = load_model(trained.path, configuration="3d_cascade", device=CPU)
    predict_ensemble(Ensemble((model,)), cases, tmp_path / "out")
    assert sorted(given) == [case.id for case in cases]
    for case, array in given.items():
        alone = sitk.ReadImage(str(tmp_path / "alone" / f"{case}.nii.gz"))
        assert np.array_equal(array, sitk.GetArrayFromImage(alone))


def test_a_cascade_is_never_run_without_its_first_stage(
    trained: DatasetFolder, tmp_path: Path
) -> None:
    model = load_model(trained.path, configuration="3d_cascade", device=CPU)
    with pytest.raises(ValueError, match="previous stage"):
        predictor.predict_cases(model, [], tmp_path / "out")


def test_broken_images_are_reported_once(trained: DatasetFolder, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(trained.path.parent.parent / "data" / "imagesTs", images)
    broken, *others = list_cases(images, 1)
    Path(broken.images[0].path).write_bytes(b"no image")
    model = load_model(trained.path, configuration="3d_cascade", device=CPU)
    report = predict_ensemble(Ensemble((model,)), list_cases(images, 1), tmp_path / "out")
    assert [case for case, _ in report.failed] == [broken.id]
    assert report.done == tuple(case.id for case in others)
    assert len(list((tmp_path / "out").iterdir())) == len(others)


def test_a_cascade_without_its_first_stage_says_so(copied: DatasetFolder, tmp_path: Path) -> None:
    listing = {found.configuration.name: found.describe() for found in find_models(copied.path)}
    assert "after 3d_lowres, folds: 0, 1" in listing["3d_cascade"]
    shutil.rmtree(copied.models / "3d_lowres")
    (found,) = find_models(copied.path)
    assert "after 3d_lowres, folds: -" in found.describe()
    model = load_model(copied.path, device=CPU)
    with pytest.raises(ModelError, match="3d_lowres, which has no trained fold") as caught:
        predict_ensemble(Ensemble((model,)), [], tmp_path / "out")
    assert "selfseg train tiny 3d_lowres" in caught.value.remedy
    assert not list((tmp_path / "out").iterdir())


def test_plans_with_impossible_stages_are_refused(trained: DatasetFolder) -> None:
    plan, last = last_stage(trained)
    full, low, _ = plan.configurations
    with pytest.raises(PlanError, match="no configuration '3d_lowres'"):
        check_plan(plan.model_copy(update={"configurations": (full, last)}))
    low = low.model_copy(update={"previous_stage": "3d_fullres"})
    with pytest.raises(PlanError, match="3d_lowres must not have one itself"):
        check_plan(plan.model_copy(update={"configurations": (full, low, last)}))
