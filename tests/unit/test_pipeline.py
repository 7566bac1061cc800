"""The commands as functions: what they refuse to overwrite, and how options are understood."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY_NETWORK, write_tiny_dataset
from continuing import CASES, make_request

from selfseg import pipeline
from selfseg.errors import SelfSegError
from selfseg.evaluation.evaluate import Tolerances
from selfseg.execution.locks import held
from selfseg.execution.resources import held_gib
from selfseg.folds import open_planned
from selfseg.inference.journal import Journal
from selfseg.pipeline import plan_dataset
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.requests import PlanRequest, PredictRequest, TrainRequest, parse_tolerances
from selfseg.status import read_status

ONLY_PLAN = PlanRequest(device="cpu", workers=1, preprocess=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


def with_batch(batch: int) -> PlanRequest:
    return PlanRequest(
        device="cpu", workers=1, preprocess=False,
        settings=(f"configurations.3d_fullres.batch={batch}",),
    )  # fmt: skip


def test_every_former_plan_is_kept(data: Path, tmp_path: Path) -> None:
    folder = plan_dataset(str(data), tmp_path, with_batch(7)).folder
    for batch in (5, 5, 2):
        plan_dataset(str(data), tmp_path, with_batch(batch))
    kept = [folder.path / f"plan.former-{n}.json" for n in (1, 2)]
    batches = [json.loads(path.read_text())["configurations"][1]["batch"] for path in kept]
    assert batches == [7, 5]
    assert not (folder.path / "plan.former-3.json").exists()


def test_another_dataset_of_the_same_name_is_refused(data: Path, tmp_path: Path) -> None:
    plan_dataset(str(data), tmp_path / "workspace", ONLY_PLAN)
    other = write_tiny_dataset(tmp_path / "elsewhere")
    with pytest.raises(SelfSegError, match="another dataset of this name, read from"):
        plan_dataset(str(other), tmp_path / "workspace", ONLY_PLAN)


def test_a_dataset_that_was_moved_is_the_same(tmp_path: Path) -> None:
    first = write_tiny_dataset(tmp_path / "before")
    plan_dataset(str(first), tmp_path / "workspace", ONLY_PLAN)
    moved = first.rename(tmp_path / "after")
    result = plan_dataset(str(moved), tmp_path / "workspace", ONLY_PLAN)
    assert result.dataset.root == str(moved)


def test_a_fold_is_trained_and_validated_where_the_data_lie_now(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    first = write_tiny_dataset(tmp_path / "before")
    settings = TINY_NETWORK[1::2]
    planned = plan_dataset(
        str(first), workspace, PlanRequest(device="cpu", workers=1, settings=settings)
    )
    moved = first.rename(tmp_path / "after")
    request = TrainRequest(
        configuration="3d_fullres", fold="0", epochs=1, steps_per_epoch=1, device="cpu", workers=0
    )
    with pytest.raises(SelfSegError, match=f"at {first} as they were") as caught:
        pipeline.train_fold("tiny", workspace, request)
    assert "selfseg train FOLDER 3d_fullres 0" in caught.value.remedy
    assert not planned.folder.models.exists()  # not a step was trained
    assert pipeline.train_fold(str(moved), workspace, request).scores is not None
    assert open_planned(planned.folder).dataset.root == str(moved)  # the name will do now
    assert read_status("tiny", workspace)[0].folds[0].state != "outdated"
    for path in moved.rglob("*.nii.gz"):
        path.unlink()
    assert pipeline.train_fold("tiny", workspace, request).scores is not None  # done already


def test_data_are_not_followed_while_they_are_planned_anew(tmp_path: Path) -> None:
    first = write_tiny_dataset(tmp_path / "before")
    planned = plan_dataset(str(first), tmp_path / "workspace", ONLY_PLAN)
    moved, folder = first.rename(tmp_path / "after"), planned.folder
    fewer = planned.dataset.model_copy(update={"cases": planned.dataset.cases[1:]})
    with ThreadPoolExecutor(1) as pool, held(folder.plan_lock, "is planned"):
        opened = pool.submit(open_planned, folder, str(moved))
        time.sleep(0.5)
        assert not opened.done()
        serial.save(fewer, folder.dataset)
    found = opened.result().dataset
    assert found == fewer.model_copy(update={"root": str(moved)})
    assert serial.load(Dataset, folder.dataset) == found


def test_other_data_are_not_taken_for_data_that_moved(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    first = write_tiny_dataset(tmp_path / "before")
    folder = plan_dataset(str(first), workspace, ONLY_PLAN).folder
    record = folder.dataset.read_bytes()
    moved = first.rename(tmp_path / "after")
    image = next((moved / "imagesTr").iterdir())
    kept = image.read_bytes()
    image.write_bytes(kept + b"more")
    with pytest.raises(SelfSegError, match=f"{image.name}: not of the size of what was planned"):
        open_planned(folder, str(moved))
    image.write_bytes(kept)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "dataset.json").write_text('{"name": "tiny"}')
    with pytest.raises(SelfSegError, match="holds no file of what was planned"):
        open_planned(folder, str(empty))
    for name in ("tiny", str(folder.path), str(first)):  # none of them is a data folder
        assert open_planned(folder, name).dataset.root == str(first)
    assert folder.dataset.read_bytes() == record
    assert open_planned(folder, str(moved)).dataset.root == str(moved)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), Tolerances(1.0)),
        (("2",), Tolerances(2.0)),
        (("organ=0.5", "lesion=2"), Tolerances(1.0, {"organ": 0.5, "lesion": 2.0})),
        (("organ=0.5", "3"), Tolerances(3.0, {"organ": 0.5})),
    ],
)
def test_tolerances_in_general_and_by_label(
    settings: tuple[str, ...], expected: Tolerances
) -> None:
    assert parse_tolerances(settings) == expected


@pytest.mark.parametrize("setting", ["far", "organ=far", "organ=", "-1", "nan"])
def test_no_tolerance(setting: str) -> None:
    with pytest.raises(SelfSegError, match="not a number of mm"):
        parse_tolerances((setting,))


def test_tolerance_of_one_label_changes_its_score_only(data: Path, tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    made = tmp_path / "made"
    made.mkdir()
    for path in sorted((data / "labelsTs").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        shifted = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[:, :, [*range(2, 24), 0, 0]])
        shifted.CopyInformation(image)
        sitk.WriteImage(shifted, str(made / path.name))
    strict, loose = (
        pipeline.evaluate_predictions(made, data / "labelsTs", tolerances=tolerances, workers=1)
        for tolerances in ((), ("organ=100",))
    )
    assert strict.labels["organ"].nsd != 1.0
    assert loose.labels["organ"].nsd == 1.0
    assert loose.labels["lesion"] == strict.labels["lesion"]


def write_folds(path: Path, held_out: list[list[str]], ids: list[str]) -> None:
    folds = [
        {"train": [case for case in ids if case not in part], "val": part} for part in held_out
    ]
    path.write_text(json.dumps(folds), encoding="utf-8")


def test_folds_beside_the_data_win_and_the_former_ones_are_kept(tmp_path: Path) -> None:
    root = write_tiny_dataset(tmp_path / "tiny")
    first = plan_dataset(str(root), tmp_path / "workspace", ONLY_PLAN)
    assert first.splits.note == "leave-one-out: 5 folds"
    ids = [case.id for case in first.dataset.cases]
    write_folds(root / "splits.json", [ids[:2], ids[2:]], ids)
    second = plan_dataset(str(root), tmp_path / "workspace", ONLY_PLAN)
    assert [fold.validation for fold in second.splits.folds] == [tuple(ids[:2]), tuple(ids[2:])]
    assert second.splits.note == "taken from splits.json"
    assert (second.folder.path / "splits.former-1.json").is_file()
    (root / "splits.json").unlink()
    assert plan_dataset(str(root), tmp_path / "workspace", ONLY_PLAN).splits == second.splits


def test_wrong_folds_beside_the_data_leave_the_workspace_alone(tmp_path: Path) -> None:
    root = write_tiny_dataset(tmp_path / "tiny")
    write_folds(root / "splits_final.json", [["case_000", "nobody"]], ["case_000", "case_001"])
    with pytest.raises(SelfSegError, match="nobody: no such case"):
        plan_dataset(str(root), tmp_path / "workspace", ONLY_PLAN)
    assert not (tmp_path / "workspace").exists()


def test_stored_folds_that_split_a_new_group_are_refused(tmp_path: Path) -> None:
    root = write_tiny_dataset(tmp_path / "tiny")
    ids = [case.id for case in plan_dataset(str(root), tmp_path / "w", ONLY_PLAN).dataset.cases]
    rows = "".join(f"{case},anna\n" for case in ids[:2]) + "".join(f"{c},{c}\n" for c in ids[2:])
    (root / "groups.csv").write_text(f"case,group\n{rows}", encoding="utf-8")
    with pytest.raises(SelfSegError, match="group anna: cases in train and in validation"):
        plan_dataset(str(root), tmp_path / "w", ONLY_PLAN)


def test_output_that_looks_like_a_file_is_refused(tmp_path: Path) -> None:
    request = PredictRequest(source=tmp_path, output=tmp_path / "a.nii.gz", model=tmp_path)
    with pytest.raises(SelfSegError, match="written as a folder, but looks like a file"):
        pipeline.predict_images(request)


def test_bad_options_are_told_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = str(tmp_path)
    with pytest.raises(SelfSegError, match="--memory lots: not an amount"):
        plan_dataset(nowhere, tmp_path, PlanRequest(device="cpu", memory="lots"))
    with pytest.raises(SelfSegError, match="no planner named 'foo'"):
        plan_dataset(nowhere, tmp_path, PlanRequest(device="cpu", planner="foo"))


@pytest.mark.skipif(sys.platform != "linux", reason="freed memory is handled with glibc only")
def test_memory_that_is_freed_after_a_prediction_goes_back_to_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make_request(tmp_path)
    assert pipeline.predict_images(asked).done == CASES
    assert freed_and_held_gib() < 0.1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "save_quality", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.predict_images(asked)
    assert freed_and_held_gib() < 0.1


def freed_and_held_gib() -> float:
    """Return how much of an array of 256 MiB the process holds once it is freed."""
    before = held_gib()
    array = np.ones(2**25)
    assert held_gib() - before > 0.2
    del array
    return held_gib() - before


def test_the_folder_of_the_images_is_no_output(tmp_path: Path) -> None:
    request = PredictRequest(source=tmp_path, output=tmp_path / ".", model=tmp_path)
    with pytest.raises(SelfSegError, match="is the folder of the images"):
        pipeline.predict_images(request)
