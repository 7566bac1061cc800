"""`selfseg classify`: train, predict, evaluate on generated lesions of two textures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lesioncases import (
    GEOMETRY,
    LABELS,
    PATIENTS,
    SmallPlanner,
    is_malignant,
    rows_of,
    run,
    train,
)

from selfseg.classification import files, nested
from selfseg.errors import DatasetError, SelfSegError
from selfseg.io.images import write_label_map
from selfseg.radiomics import mirp_features
from selfseg.records import serial
from selfseg.records.classification import (
    Calibration,
    ClassificationScores,
)
from selfseg.records.geometry import Orientation

pytestmark = pytest.mark.usefixtures("small_classifier")


def test_lesions_from_labels_to_scores_on_new_patients(lesions: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shown = train(lesions, model)
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
    run("predict", "-i", lesions / "imagesTs", "-p", lesions / "labelsTs", "-m", model, "-o", out)
    found = rows_of(out)
    assert [(row["case"], row["lesion"]) for row in found[:3]] == [
        ("case20", "1"),
        ("case20", "2"),
        ("case21", "1"),
    ]
    assert {row["positive"] for row in found} == {"malignant"}
    labels = lesions / "lesionsTs.csv"
    report = run("evaluate", "-p", out, "-l", labels, "--label-column", "diagnosis", "--json")
    test = ClassificationScores.model_validate_json(report)
    assert test.auc.value > 0.9
    assert (test.regions, test.positives, test.groups) == (12, 6, 6)


def test_a_classifier_of_mirps_features_needs_mirp(
    lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirp_features, "mirp_version", lambda: None)
    model, out = tmp_path / "model", tmp_path / "p.csv"
    train(lesions, model)
    content = json.loads((model / "model.json").read_text())
    images, masks = lesions / "imagesTs", lesions / "labelsTs"
    common = ("predict", "-i", images, "-p", masks, "-m", model, "-o", out)
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


def test_the_same_seed_writes_the_same_files(lesions: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(lesions, tmp_path / name)
    for name in ("model.json", "out_of_fold.csv", "chosen_features.csv", "features.csv"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("one", "two"))
        assert first == second


def test_a_training_that_is_cut_off_leaves_no_model_of_a_former_one(
    lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    monkeypatch.setattr(files, "write_features", full)
    with pytest.raises(OSError, match="no space"):
        train(lesions, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["out_of_fold.csv"]


def test_cases_and_masks_of_several_folds(lesions: Path, tmp_path: Path) -> None:
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
        target.write_bytes((lesions / "labelsTr" / name).read_bytes())
    text = run(
        "train", "-i", lesions / "imagesTr", "-p", folds[0], "-p", folds[1], "-l", labels,
        "--region", "2", "-o", tmp_path / "model", "--workers", 1, "--json",
    )  # fmt: skip
    scores = ClassificationScores.model_validate_json(text)
    assert scores.missing == ("case01",)
    assert (scores.regions, scores.groups) == (19, 10)
    out = tmp_path / "found.csv"
    run("predict", "-i", lesions / "imagesTr", "-p", folds[0], "-m", tmp_path / "model", "-o", out)
    second = rows_of(out)[1]
    assert (second["case"], second["probability"], second["called"]) == ("case01", "", "")
    judged = run("evaluate", "-p", out, "-l", labels, "--json")
    assert "case01" in ClassificationScores.model_validate_json(judged).missing


def test_mistakes_are_named_and_nothing_is_written(lesions: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("case,label\ncase00,1\ncase77,0\n")
    out = tmp_path / "model"
    common = ("-i", lesions / "imagesTr", "-p", lesions / "labelsTr", "-l", labels, "-o", out)
    with pytest.raises(DatasetError, match=r"case case77: no mask case77\.\*"):
        run("train", *common, "--workers", 1)
    with pytest.raises(SelfSegError, match="--region liver: neither a label"):
        run("train", *common, "--region", "liver")
    labels.write_text("case,label\ncase00,1\ncase01,0\n")
    with pytest.raises(DatasetError, match="class '1': 1 patient with"):
        run("train", *common, "--workers", 1)
    twice = (*common, "-p", lesions / "labelsTr")
    with pytest.raises(DatasetError, match="two masks of 20 cases"):
        run("train", *twice)
    assert not out.exists()


def test_lesions_are_not_counted_over_several_labels(lesions: Path, tmp_path: Path) -> None:
    common = ("-i", lesions / "imagesTr", "-l", lesions / "lesionsTr.csv",
              "--label-column", "diagnosis", "--positive", "malignant",
              "-o", tmp_path / "model", "--workers", 1)  # fmt: skip
    with pytest.raises(DatasetError, match="of which label\\? The masks have organ, tumor"):
        run("train", *common, "-p", lesions / "labelsTr")
    alone = tmp_path / "masks"  # without a description
    shutil.copytree(lesions / "labelsTr", alone)
    with pytest.raises(
        DatasetError, match=r"case00\.nii\.gz: lesions of which value\? It has 1, 2"
    ):
        run("train", *common, "-p", alone)


def test_probabilities_of_another_class_are_not_judged(lesions: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("case,lesion,positive,probability,called\ncase20,1,benign,0.3,no\n")
    labels = lesions / "lesionsTs.csv"
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


def test_a_classifier_that_tells_nothing_says_so(
    lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "p.csv"
    common = ("predict", "-i", lesions / "imagesTs", "-p", lesions / "labelsTs", "-o", out)
    train(lesions, tmp_path / "good")
    run(*common, "-m", tmp_path / "good")
    assert not caplog.records
    silent = Calibration(slope=0.0, intercept=0.0)
    monkeypatch.setattr(nested, "fit_calibration", lambda *_: silent)
    train(lesions, tmp_path / "silent")
    useless, folds = (record.getMessage() for record in caplog.records)
    assert "this classifier tells nothing" in useless
    assert "the same probability, 0.50, and is called 'malignant'" in useless
    assert "in 3 of 3 outer folds scores told nothing" in folds
    caplog.clear()
    run(*common, "-m", tmp_path / "silent")
    assert {row["called"] for row in rows_of(out)} == {"yes"}
    (record,) = caplog.records
    assert "this classifier tells nothing" in record.getMessage()
