"""`selfseg classify`: train, predict, evaluate on generated lesions of two textures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lesiontable import EVERY, small_plan
from scipy import ndimage
from tinymodel import save_model, tiny_plan
from typer.testing import CliRunner

from selfseg import planning
from selfseg.bundles import export_model
from selfseg.classification import files, nested
from selfseg.cli.main import app
from selfseg.errors import DatasetError, ModelError, SelfSegError
from selfseg.io.images import write_label_map, write_volume
from selfseg.radiomics import mirp_features
from selfseg.records import serial
from selfseg.records.classification import (
    Calibration,
    ClassificationFacts,
    ClassificationPlan,
    ClassificationScores,
)
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation

GEOMETRY = Geometry(shape=(10, 20, 20), spacing_mm=(2.0, 1.0, 1.0))
LABELS = (Label(name="organ", value=1), Label(name="tumor", value=2))
PATIENTS = 20


class SmallPlanner:
    """Few trees, few folds."""

    facts: ClassificationFacts

    def decide_classification(self, facts: ClassificationFacts) -> ClassificationPlan:
        SmallPlanner.facts = facts
        return small_plan(*EVERY[1:], trees=8, outer=3, inner=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_classifier", lambda _: SmallPlanner())


def place(case: int, lesion: int) -> tuple[int, int, int]:
    return (5, 5 + 9 * lesion, 6 + case % 3 + 4 * lesion)


def is_malignant(case: int, lesion: int) -> bool:
    return (case + lesion) % 2 == 0


def write_case(root: Path, case: int) -> None:
    """Write an organ with two lesions, of which a malignant one has coarse bright spots."""
    rng = np.random.default_rng(case)
    image, indices = rng.normal(40, 10, GEOMETRY.shape), np.zeros(GEOMETRY.shape, np.int16)
    indices[:, 2:18, 2:18] = 1
    z, y, x = np.meshgrid(*map(np.arange, GEOMETRY.shape), indexing="ij")
    spots = ndimage.gaussian_filter(rng.normal(size=GEOMETRY.shape), 1.2) * 200
    for lesion in range(2):
        center = place(case, lesion)
        radius = 4.2 if lesion == 0 else 3.2  # the first is the larger component
        ball = 4 * (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 <= radius**2
        indices[ball] = 2
        if is_malignant(case, lesion):
            image[ball] += spots[ball]
    image = image.astype(np.float32)
    name, orientation = f"case{case:02d}", Orientation()
    split = "Tr" if case < PATIENTS else "Ts"
    path = root / f"labels{split}" / f"{name}.nii.gz"
    write_label_map(indices, LABELS, native=GEOMETRY, orientation=orientation, path=path)
    path = root / f"images{split}" / f"{name}_0000.nii.gz"
    write_volume(image, native=GEOMETRY, orientation=orientation, path=path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lesions")
    for case in range(PATIENTS + 6):
        write_case(root, case)
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "tumor": 2},
        "numTraining": PATIENTS,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    for split, cases in (("Tr", range(PATIENTS)), ("Ts", range(PATIENTS, PATIENTS + 6))):
        lines = [
            f"case{case:02d},{lesion + 1},{'malignant' if is_malignant(case, lesion) else 'benign'}"
            for case in cases
            for lesion in range(2)
        ]
        (root / f"lesions{split}.csv").write_text("\n".join(["case,lesion,diagnosis", *lines]))
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["classify", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def train(data: Path, output: Path, *more: object) -> str:
    return run(
        "train", "-i", data / "imagesTr", "-p", data / "labelsTr", "-l", data / "lesionsTr.csv",
        "--label-column", "diagnosis", "--positive", "malignant", "--region", "tumor",
        "-o", output, "--workers", 1, *more,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_lesions_from_labels_to_scores_on_new_patients(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shown = train(data, model)
    assert "The volume alone: AUC 0.5" in shown  # as many large as small ones are malignant
    facts = SmallPlanner.facts
    assert facts.channels == ("CT",)
    assert (facts.regions, facts.groups, facts.rarer_groups) == (40, 20, 20)
    assert facts.mirp == mirp_features.mirp_version()
    scores = serial.load(ClassificationScores, model / "scores.json")
    assert scores.auc.value > 0.9
    assert scores.p_value < 0.02
    held_out = rows_of(model / "out_of_fold.csv")
    assert len(held_out) == 40
    by_case = {(row["case"], row["fold"]) for row in held_out}
    assert len(by_case) == PATIENTS, "both lesions of a patient lie in one fold"
    chosen = rows_of(model / "chosen_features.csv")
    assert sum(float(row["importance"]) for row in chosen) == pytest.approx(1, abs=1e-2)
    assert not chosen[0]["feature"].startswith("shape")
    for name in ("roc.png", "calibration.png"):
        assert (model / name).read_bytes().startswith(b"\x89PNG")

    out = tmp_path / "probabilities.csv"
    run("predict", "-i", data / "imagesTs", "-p", data / "labelsTs", "-m", model, "-o", out)
    found = rows_of(out)
    assert [(row["case"], row["lesion"]) for row in found[:3]] == [
        ("case20", "1"),
        ("case20", "2"),
        ("case21", "1"),
    ]
    assert {row["positive"] for row in found} == {"malignant"}
    report = run(
        "evaluate", "-p", out, "-l", data / "lesionsTs.csv", "--label-column", "diagnosis", "--json"
    )
    test = ClassificationScores.model_validate_json(report)
    assert test.auc.value > 0.9
    assert (test.regions, test.positives, test.groups) == (12, 6, 6)


def test_a_classifier_of_mirps_features_needs_mirp(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirp_features, "mirp_version", lambda: None)
    model, out = tmp_path / "model", tmp_path / "p.csv"
    train(data, model)
    content = json.loads((model / "model.json").read_text())
    common = ("predict", "-i", data / "imagesTs", "-p", data / "labelsTs", "-m", model, "-o", out)
    radiomics = content["plan"]["radiomics"]
    assert radiomics.pop("further") == []  # as in files from before there were any
    (model / "model.json").write_text(json.dumps(content))
    run(*common)
    before = out.read_bytes()
    radiomics["further"] = ["zones", "distance_zones"]  # offered, but none was chosen
    (model / "model.json").write_text(json.dumps(content))
    run(*common)
    assert out.read_bytes() == before
    out.unlink()
    content["fitted"]["features"][0] = "distance_zones_entropy"
    (model / "model.json").write_text(json.dumps(content))
    with pytest.raises(SelfSegError, match="the radiomics distance_zones are computed with mirp"):
        run(*common)
    with pytest.raises(SelfSegError, match="Install selfseg with its extra 'radiomics'"):
        run("predict", "-i", tmp_path, "-p", tmp_path, "-m", model, "-o", out)
    assert not out.exists()


def test_the_same_seed_writes_the_same_files(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(data, tmp_path / name)
    for name in ("model.json", "out_of_fold.csv", "chosen_features.csv", "features.csv"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("one", "two"))
        assert first == second


def test_a_training_that_is_cut_off_leaves_no_model_of_a_former_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    monkeypatch.setattr(files, "write_features", full)
    with pytest.raises(OSError, match="no space"):
        train(data, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["out_of_fold.csv"]


def test_cases_and_masks_of_several_folds(data: Path, tmp_path: Path) -> None:
    # The larger lesion decides; case 1 was not found by its segmentation.
    lines = [f"case{c:02d},{int(is_malignant(c, 0))},p{c // 2}" for c in range(PATIENTS)]
    labels = tmp_path / "cases.csv"
    labels.write_text("\n".join(["case,label,group", *lines]))
    folds = [tmp_path / "fold_0", tmp_path / "fold_1"]
    for case in range(PATIENTS):
        name = f"case{case:02d}.nii.gz"
        target = folds[case // 2 % 2] / name  # both classes are in either
        if case == 1:
            write_label_map(
                np.zeros(GEOMETRY.shape, np.int16), LABELS,
                native=GEOMETRY, orientation=Orientation(), path=target,
            )  # fmt: skip
            continue
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((data / "labelsTr" / name).read_bytes())
    text = run(
        "train", "-i", data / "imagesTr", "-p", folds[0], "-p", folds[1], "-l", labels,
        "--region", "2", "-o", tmp_path / "model", "--workers", 1, "--json",
    )  # fmt: skip
    scores = ClassificationScores.model_validate_json(text)
    assert scores.missing == ("case01",)
    assert (scores.regions, scores.groups) == (19, 10)
    out = tmp_path / "found.csv"
    run("predict", "-i", data / "imagesTr", "-p", folds[0], "-m", tmp_path / "model", "-o", out)
    second = rows_of(out)[1]
    assert (second["case"], second["probability"], second["called"]) == ("case01", "", "")
    judged = run("evaluate", "-p", out, "-l", labels, "--json")
    assert "case01" in ClassificationScores.model_validate_json(judged).missing


def test_mistakes_are_named_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("case,label\ncase00,1\ncase77,0\n")
    out = tmp_path / "model"
    common = ("-i", data / "imagesTr", "-p", data / "labelsTr", "-l", labels, "-o", out)
    with pytest.raises(DatasetError, match=r"case case77: no mask case77\.\*"):
        run("train", *common, "--workers", 1)
    with pytest.raises(SelfSegError, match="--region liver: neither a label"):
        run("train", *common, "--region", "liver")
    labels.write_text("case,label\ncase00,1\ncase01,0\n")
    with pytest.raises(DatasetError, match="class '1': 1 patients"):
        run("train", *common, "--workers", 1)
    twice = (*common, "-p", data / "labelsTr")
    with pytest.raises(DatasetError, match="20 cases have two masks"):
        run("train", *twice)
    assert not out.exists()


def test_lesions_are_not_counted_over_several_labels(data: Path, tmp_path: Path) -> None:
    common = ("-i", data / "imagesTr", "-l", data / "lesionsTr.csv", "--label-column", "diagnosis",
              "--positive", "malignant", "-o", tmp_path / "model", "--workers", 1)  # fmt: skip
    with pytest.raises(DatasetError, match="of which label\\? The masks have organ, tumor"):
        run("train", *common, "-p", data / "labelsTr")
    alone = tmp_path / "masks"  # without a description
    shutil.copytree(data / "labelsTr", alone)
    with pytest.raises(
        DatasetError, match=r"case00\.nii\.gz: lesions of which value\? It has 1, 2"
    ):
        run("train", *common, "-p", alone)


def test_probabilities_of_another_class_are_not_judged(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("case,lesion,positive,probability,called\ncase20,1,benign,0.3,no\n")
    labels = data / "lesionsTs.csv"
    with pytest.raises(DatasetError, match="probabilities of benign, but malignant"):
        run("evaluate", "-p", path, "-l", labels, "--label-column", "diagnosis",
            "--positive", "malignant")  # fmt: skip
    line = "case20,1,malignant,0.3,no\n"
    path.write_text(f"case,lesion,positive,probability,called\n{line}{line}")
    with pytest.raises(DatasetError, match="case case20 lesion 1 stands there 2 times"):
        run("evaluate", "-p", path, "-l", labels, "--label-column", "diagnosis")
    path.write_text("case,lesion,positive,probability,called\ncase20,1,malignant,1.3,no\n")
    with pytest.raises(DatasetError, match="line 2"):
        run("evaluate", "-p", path, "-l", labels, "--label-column", "diagnosis")


def refuse_misplaced_masks(data: Path, tmp_path: Path, model: Path, network: Path) -> None:
    """Check that deep features of masks on other grids are refused, all complaints at once."""
    masks, images, out = tmp_path / "masks", tmp_path / "images", tmp_path / "misplaced.csv"
    shutil.copytree(data / "labelsTs", masks)
    shutil.copytree(data / "imagesTs", images)
    indices = np.ones(GEOMETRY.shape, np.int16)
    indices[5, 5:9, 5:9] = 2
    smaller = GEOMETRY.model_copy(update={"shape": (10, 20, 18)})
    shifted = GEOMETRY.model_copy(update={"origin_mm": (0.0, 7.0, 0.0)})
    for case, geometry in (("case21", smaller), ("case23", shifted)):
        write_label_map(
            np.ascontiguousarray(indices[:, :, : geometry.shape[2]]), LABELS,
            native=geometry, orientation=Orientation(), path=masks / f"{case}.nii.gz",
        )  # fmt: skip
    write_volume(
        np.zeros(GEOMETRY.shape, np.float32), native=GEOMETRY, orientation=Orientation(),
        path=images / "case24_0001.nii.gz",
    )  # fmt: skip
    with pytest.raises(DatasetError, match="3 of 6 cases cannot be used") as caught:
        run("predict", "-i", images, "-p", masks, "-m", model, "-o", out, "--segmentation", network)
    said = str(caught.value)
    assert "case21.nii.gz: not on the grid of" in said
    assert "case23.nii.gz: not on the grid of" in said
    assert "case24_0000.nii.gz: 2 channels, not 1" in said
    assert not out.exists()


def test_a_classifier_that_tells_nothing_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "p.csv"
    common = ("predict", "-i", data / "imagesTs", "-p", data / "labelsTs", "-o", out)
    train(data, tmp_path / "good")
    run(*common, "-m", tmp_path / "good")
    assert not caplog.records
    silent = Calibration(slope=0.0, intercept=0.0)
    monkeypatch.setattr(nested, "fit_calibration", lambda *_: silent)
    train(data, tmp_path / "silent")
    useless, folds = (record.getMessage() for record in caplog.records)
    assert "this classifier tells nothing" in useless
    assert "the same probability, 0.50, and is called 'malignant'" in useless
    assert "in 3 of 3 outer folds scores told nothing" in folds
    caplog.clear()
    run(*common, "-m", tmp_path / "silent")
    assert {row["called"] for row in rows_of(out)} == {"yes"}
    (record,) = caplog.records
    assert "this classifier tells nothing" in record.getMessage()


def test_deep_features_come_from_one_known_network(data: Path, tmp_path: Path) -> None:
    network, model, out = tmp_path / "network", tmp_path / "model", tmp_path / "p.csv"
    save_model(network, tiny_plan())
    with pytest.raises(SelfSegError, match="--features both: no network"):
        train(data, model, "--features", "both")
    with pytest.raises(SelfSegError, match="radiomics need no network"):
        train(data, model, "--segmentation", network)
    with pytest.raises(SelfSegError, match="--config and --fold choose from a model"):
        train(data, model, "--fold", "0")
    train(data, model, "--features", "both", "--segmentation", network)
    names = (model / "features.csv").read_text().partition("\n")[0].split(",")
    assert [name for name in names if name.startswith("deep_")] == [f"deep_{i}" for i in range(8)]
    assert "shape_sphericity" in names
    train(data, model, "--features", "deep", "--segmentation", network)
    chosen = {row["feature"] for row in rows_of(model / "chosen_features.csv")}
    assert chosen <= {f"deep_component_{i}" for i in (1, 2, 3)}
    arguments = (
        "predict",
        "-i",
        data / "imagesTs",
        "-p",
        data / "labelsTs",
        "-m",
        model,
        "-o",
        out,
    )
    with pytest.raises(SelfSegError, match="needs deep features of 3d_fullres fold 0"):
        run(*arguments)
    with pytest.raises(ModelError, match=r"absent: no such file"):
        run("predict", "-i", data, "-p", data, "-m", tmp_path / "absent", "-o", out)
    export_model(network, tmp_path / "network.zip")
    run(*arguments, "--segmentation", tmp_path / "network.zip")
    assert len(rows_of(out)) == 12
    refuse_misplaced_masks(data, tmp_path, model, network)
    weights = network / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    save_model(tmp_path / "other", tiny_plan(), folds=("1", "0"))
    other = tmp_path / "other" / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    weights.write_bytes(other.read_bytes())
    with pytest.raises(ModelError, match="not the weights that the classifier was trained with"):
        run(*arguments, "--segmentation", network)
