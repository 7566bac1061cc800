"""`plan --auxiliary`, then training on both data sets and prediction with the primary network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import selfseg, write_tiny_dataset

from selfseg import folds, pipeline, requests
from selfseg.errors import PlanError
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.network import DualChannel, JointStreams
from selfseg.records.plan import Plan
from selfseg.workspace.dataset import DatasetFolder

TINY = "configurations.3d_fullres.network.backbone.features=[4,8,16]"


def rename_labels(root: Path, names: dict[str, int]) -> None:
    path = root / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {"background": 0, **names}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    """A data set that borrows from another one, which annotates its organ and something else."""
    root = tmp_path_factory.mktemp("auxiliary")
    own = write_tiny_dataset(root / "own", train=5, test=1)
    other = write_tiny_dataset(root / "other", train=3, test=0, name="other", seed=4)
    names = json.loads((own / "dataset.json").read_text())["labels"]
    first = next(name for name, value in names.items() if value == 1)
    rename_labels(other, {first: 1, "something": 2})
    done = selfseg(
        "plan", own, "--auxiliary", other, "--workspace", root / "workspace", "--set", TINY,
        "--device", "cpu", "--no-preprocess", "--explain",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "other annotates" in " ".join(done.stdout.split())
    return DatasetFolder(root / "workspace" / "tiny")


def test_the_plan_says_what_is_borrowed_and_why(planned: DatasetFolder) -> None:
    plan, auxiliary = serial.load(Plan, planned.plan), serial.load(Dataset, planned.auxiliary)
    assert plan.auxiliary is not None
    assert (plan.auxiliary.name, len(auxiliary.cases)) == ("other", 3)
    reasons = {d.subject: d for d in plan.decisions if d.rule == "auxiliary"}
    assert "5 cases and 3 auxiliary ones" in reasons["auxiliary"].because
    second = plan.labels[1].name
    assert f"{second} may hide in its background" in reasons["auxiliary.labels"].because
    assert "its something is background here" in reasons["auxiliary.labels"].because
    for item in plan.configurations:
        if item.name in ("2d", "3d_fullres"):
            assert isinstance(item.network, DualChannel)
            assert isinstance(item.network.variant, JointStreams)
            assert f"configurations.{item.name}.network.variant" in reasons


def test_training_and_prediction(planned: DatasetFolder, tmp_path: Path) -> None:
    place = ("--workspace", planned.path.parent, "--device", "cpu", "--workers", "0")
    done = selfseg(
        "train", "tiny", "3d_fullres", "0", "--epochs", "1", "--steps-per-epoch", "3", *place
    )
    assert done.returncode == 0, done.stderr
    arrays = [path.name for path in (planned.path / "preprocessed").iterdir()]
    assert sum(name.endswith("_auxiliary") for name in arrays) == 1
    images = planned.path.parent.parent / "own" / "imagesTs"
    done = selfseg("predict", "-i", images, "-o", tmp_path, "-m", planned.path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.nii.gz"))) == 1


def test_a_fold_is_outdated_when_the_auxiliary_data_set_changes(planned: DatasetFolder) -> None:
    known = folds.open_planned(planned)
    item = folds.find_configuration(known.plan, "3d_fullres")
    trained = known.describe(item, "0")
    assert trained is not None
    assert known.fault(item, trained) == ""
    auxiliary = serial.load(Dataset, planned.auxiliary)
    fewer = auxiliary.model_copy(update={"cases": auxiliary.cases[1:]})
    try:
        serial.save(fewer, planned.auxiliary)
        assert known.fault(item, trained) == "was trained on other files"
    finally:
        serial.save(auxiliary, planned.auxiliary)


def test_data_sets_without_a_common_label_are_refused(
    planned: DatasetFolder, tmp_path: Path
) -> None:
    other = write_tiny_dataset(tmp_path / "other", train=2, test=0, name="strange", seed=4)
    rename_labels(other, {"bone": 1, "skin": 2})
    own = planned.path.parent.parent / "own"
    request = requests.PlanRequest(auxiliary=str(other), preprocess=False, device="cpu", workers=0)
    with pytest.raises(PlanError, match="no label of the same name") as caught:
        pipeline.plan_dataset(str(own), tmp_path / "workspace", request)
    assert "nothing was written" in caught.value.remedy
    assert not (tmp_path / "workspace").exists()
    itself = requests.PlanRequest(auxiliary=str(own), preprocess=False, device="cpu", workers=0)
    with pytest.raises(PlanError, match="it is the data set itself"):
        pipeline.plan_dataset(str(own), tmp_path / "workspace", itself)


def test_a_copy_of_the_own_images_is_refused(planned: DatasetFolder, tmp_path: Path) -> None:
    """What a fold holds out would be trained on under another name."""
    copy = write_tiny_dataset(tmp_path / "copy", train=2, test=0, name="copy")
    own = planned.path.parent.parent / "own"
    request = requests.PlanRequest(auxiliary=str(copy), preprocess=False, device="cpu", workers=0)
    with pytest.raises(PlanError, match="it holds images of tiny") as caught:
        pipeline.plan_dataset(str(own), tmp_path / "workspace", request)
    assert "case_000, case_001" in caught.value.message
