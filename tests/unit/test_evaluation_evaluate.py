import csv
import json
from pathlib import Path

import numpy as np
import pytest
from targets import nested, plain

from selfseg.errors import DatasetError, GeometryError, SelfSegError
from selfseg.evaluation.evaluate import Tolerances, evaluate_folders, score_case
from selfseg.evaluation.labels import declared_targets, numbered_targets
from selfseg.evaluation.table import METRICS, mean_scores, metrics_table, write_table
from selfseg.io.images import write_label_map
from selfseg.records import serial
from selfseg.records.dataset import Label, Targets
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.metrics import CaseScores, LabelScores, MetricsTable
from selfseg.selection.scoring import Measure, Reference, score_names

LABELS = (Label(name="liver", value=1), Label(name="tumor", value=7))
TARGETS = Targets(labels=LABELS)
GEOMETRY = Geometry(shape=(6, 8, 10), spacing_mm=(2.0, 1.0, 1.0))
FLIPPED = Geometry(
    shape=(6, 8, 10),
    spacing_mm=(2.0, 1.0, 1.0),
    origin_mm=(9.0, 0.0, 0.0),
    direction=((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
)


def scores(dice: float | None, volume: float | None = 0.0) -> LabelScores:
    return LabelScores(
        dice=dice, iou=dice, hd95_mm=None, assd_mm=None, nsd=dice, volume_difference_ml=volume
    )


def label_map() -> np.ndarray:
    indices = np.zeros(GEOMETRY.shape, dtype=np.int16)
    indices[1:4, 1:6, 1:6] = 1
    indices[2, 2:4, 2:4] = 2
    return indices


def write(
    indices: np.ndarray,
    path: Path,
    geometry: Geometry = GEOMETRY,
    flips: tuple[bool, bool, bool] = (False, False, False),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    orientation = Orientation(flips=flips)
    write_label_map(indices, LABELS, native=geometry, orientation=orientation, path=path)


def test_a_perfect_prediction() -> None:
    for result in score_case(label_map(), label_map(), TARGETS, (2.0, 1.0, 1.0)).values():
        assert result.dice == result.iou == result.nsd == 1
        assert result.hd95_mm == result.assd_mm == result.volume_difference_ml == 0


def test_scores_of_a_shifted_label() -> None:
    reference = np.zeros((4, 12, 12), dtype=np.int16)
    reference[1:3, 2:8, 2:8] = 2
    prediction = np.roll(reference, 2, axis=2)
    prediction[0, 0, 0] = 1
    result = score_case(
        prediction, reference, TARGETS, (1.0, 1.0, 1.5), Tolerances(0.5, {"tumor": 3.0})
    )
    assert result["tumor"].dice == pytest.approx(4 / 6)
    assert result["tumor"].iou == pytest.approx(4 / 8)
    assert result["tumor"].hd95_mm == pytest.approx(3.0)
    assert result["tumor"].nsd == 1
    assert result["tumor"].volume_difference_ml == 0
    assert result["liver"] == LabelScores(
        dice=0, iou=0, hd95_mm=None, assd_mm=None, nsd=0, volume_difference_ml=0.0015
    )


def test_a_label_absent_from_both_is_undefined() -> None:
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    assert score_case(empty, empty, TARGETS, (1.0, 1.0, 1.0))["liver"] == scores(None)


def test_means_count_only_what_is_defined() -> None:
    cases = (
        CaseScores(case="a", labels={"liver": scores(0.8), "tumor": scores(None)}),
        CaseScores(case="b", labels={"liver": scores(0.6), "tumor": scores(0.1)}),
    )
    table = metrics_table(cases, ("liver", "tumor"))
    assert table.labels["liver"].dice == pytest.approx(0.7)
    assert table.labels["tumor"].dice == pytest.approx(0.1)
    assert table.mean.dice == pytest.approx(0.4)  # every label weighs the same
    assert table.mean.hd95_mm is None
    assert mean_scores([]).dice is None


def test_table_files_hold_every_case_and_the_means(tmp_path: Path) -> None:
    cases = (CaseScores(case="a", labels={"liver": scores(0.8), "tumor": scores(None)}),)
    table = metrics_table(cases, ("liver", "tumor"))
    json_path, csv_path = write_table(table, tmp_path / "scores.v1.json")
    assert (json_path.name, csv_path.name) == ("scores.v1.json", "scores.v1.csv")
    assert serial.load(MetricsTable, json_path) == table
    rows = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [(row["case"], row["label"], row["dice"]) for row in rows] == [
        ("a", "liver", "0.8"),
        ("a", "tumor", ""),
        ("mean", "liver", "0.8"),
        ("mean", "tumor", ""),
        ("mean", "mean", "0.8"),
    ]
    assert set(METRICS) < set(rows[0])


def test_labels_are_read_from_both_conventions(tmp_path: Path) -> None:
    references = tmp_path / "labelsTr"
    references.mkdir()
    assert declared_targets(references) is None
    described = tmp_path / "dataset.json"
    described.write_text(json.dumps({"labels": {"background": 0, "tumor": 7, "liver": 1}}))
    assert declared_targets(references) == TARGETS
    described.write_text(json.dumps({"labels": {"0": "background", "1": "liver", "7": "tumor"}}))
    assert declared_targets(references) == TARGETS
    described.write_text("{")
    assert declared_targets(references) is None
    assert numbered_targets([0, 7, 1, 7]).names == ("label_1", "label_7")


def test_regions_and_ignore_are_read_and_contradictions_named(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 7], "tumor": 7, "ignore": 9}
    described = {"labels": labels, "regions_class_order": [1, 7]}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    targets = declared_targets(tmp_path)
    assert targets is not None
    assert targets.names == ("whole", "tumor")
    assert targets.members == ((1, 2), (2,))
    assert targets.ignore_index == 3
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(DatasetError, match=r"dataset\.json") as caught:
        declared_targets(tmp_path)
    assert "'regions_class_order' is missing" in caught.value.complaints[0]


def test_folders_are_matched_by_case_whatever_the_ending(tmp_path: Path) -> None:
    write(label_map(), tmp_path / "made" / "a.nrrd")
    write(label_map(), tmp_path / "made" / "other.nrrd")
    write(label_map(), tmp_path / "true" / "a.nii.gz")
    table = evaluate_folders(tmp_path / "made", tmp_path / "true", targets=TARGETS)
    assert [case.case for case in table.cases] == ["a"]
    assert table.mean.dice == 1


def test_a_prediction_may_be_stored_flipped(tmp_path: Path) -> None:
    write(label_map(), tmp_path / "made" / "a.nrrd", FLIPPED, (False, False, True))
    write(label_map(), tmp_path / "true" / "a.nrrd")
    table = evaluate_folders(tmp_path / "made", tmp_path / "true", targets=TARGETS)
    assert table.mean.dice == 1


def test_labels_default_to_the_values_that_occur(tmp_path: Path) -> None:
    write(label_map(), tmp_path / "made" / "a.nrrd")
    write(label_map() // 2, tmp_path / "true" / "a.nrrd")
    table = evaluate_folders(tmp_path / "made", tmp_path / "true")
    assert list(table.labels) == ["label_1", "label_7"]
    assert table.labels["label_7"].dice == 0


def test_all_missing_predictions_are_named(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for case in ("a", "b"):
        write(label_map(), tmp_path / "true" / f"{case}.nrrd")
    with pytest.raises(SelfSegError, match=r"2 of 2 references: a, b"):
        evaluate_folders(tmp_path / "made", tmp_path / "true")


def test_all_grid_differences_are_named(tmp_path: Path) -> None:
    other = GEOMETRY.model_copy(update={"spacing_mm": (3.0, 1.0, 1.0)})
    for case in ("a", "b"):
        write(label_map(), tmp_path / "true" / f"{case}.nrrd")
        write(label_map(), tmp_path / "made" / f"{case}.nrrd", other)
    with pytest.raises(GeometryError, match=r"(?s)2 cases.*a\.nrrd.*b\.nrrd"):
        evaluate_folders(tmp_path / "made", tmp_path / "true", targets=TARGETS)


def test_undeclared_values_are_named(tmp_path: Path) -> None:
    write(label_map(), tmp_path / "true" / "a.nrrd")
    write(label_map(), tmp_path / "made" / "a.nrrd")
    with pytest.raises(SelfSegError, match=r"7"):
        evaluate_folders(tmp_path / "made", tmp_path / "true", targets=Targets(labels=LABELS[:1]))


def test_folders_must_exist_and_be_unambiguous(tmp_path: Path) -> None:
    with pytest.raises(SelfSegError, match="no such folder"):
        evaluate_folders(tmp_path / "made", tmp_path / "true")
    (tmp_path / "made").mkdir()
    (tmp_path / "true").mkdir()
    with pytest.raises(SelfSegError, match="no label maps"):
        evaluate_folders(tmp_path / "made", tmp_path / "true")
    write(label_map(), tmp_path / "true" / "a.nrrd")
    write(label_map(), tmp_path / "true" / "a.nii.gz")
    with pytest.raises(SelfSegError, match=r"two files for case a"):
        evaluate_folders(tmp_path / "made", tmp_path / "true")


def test_tolerances_of_unknown_labels_are_refused(tmp_path: Path) -> None:
    for folder in ("made", "true"):
        write(label_map(), tmp_path / folder / "a.nrrd")
    with pytest.raises(SelfSegError, match="unknown labels: spleen"):
        evaluate_folders(
            tmp_path / "made",
            tmp_path / "true",
            targets=TARGETS,
            tolerances=Tolerances(1.0, {"spleen": 2.0}),
        )


def test_a_part_of_the_references_can_be_asked_for(tmp_path: Path) -> None:
    for folder, names in (("made", "a"), ("true", "abcdefgh")):
        for name in names:
            write(label_map(), tmp_path / folder / f"{name}.nrrd")
    made, true = tmp_path / "made", tmp_path / "true"
    with pytest.raises(SelfSegError, match="7 of 8 references: b, c, d, e, f, …"):
        evaluate_folders(made, true)
    table = evaluate_folders(made, true, only_predicted=True)
    assert [case.case for case in table.cases] == ["a"]
    (made / "a.nrrd").rename(made / "z.nrrd")
    with pytest.raises(SelfSegError, match="8 of 8"):
        evaluate_folders(made, true, only_predicted=True)


def test_regions_are_scored_as_unions_of_labels() -> None:
    reference = np.zeros((4, 10, 10), dtype=np.int16)
    reference[1:3, 2:8, 2:8] = 1
    reference[1:3, 4:6, 4:6] = 3
    prediction = reference.copy()
    prediction[1:3, 4:6, 4] = 2  # right in core, wrong in center
    prediction[1, 2, 2] = 0
    targets = nested()
    found = score_case(prediction, reference, targets, (1.0, 1.0, 1.0))
    assert list(found) == ["whole", "core", "center"]
    for name, members in zip(targets.names, targets.members, strict=True):
        a, b = np.isin(prediction, members), np.isin(reference, members)
        alone = score_case(a.astype(np.int16), b.astype(np.int16), plain(1), (1.0, 1.0, 1.0))[
            "label 1"
        ]
        assert found[name] == alone
    assert found["whole"].dice == pytest.approx(142 / 143)
    assert found["core"].dice == 1
    assert found["center"].dice == pytest.approx(2 / 3)


def test_only_annotated_voxels_are_scored() -> None:
    reference = np.full((6, 10, 10), 3, dtype=np.int16)
    reference[2] = 0
    reference[2, 2:6, 2:6] = 1
    prediction = np.zeros((6, 10, 10), dtype=np.int16)
    prediction[:, 2:6, 2:6] = 1
    prediction[0] = 2
    found = score_case(prediction, reference, plain(2, ignore=9), (1.0, 1.0, 1.0))
    assert (found["label 1"].dice, found["label 1"].iou, found["label 1"].nsd) == (1, 1, 1)
    assert found["label 1"].hd95_mm == found["label 1"].volume_difference_ml == 0
    assert found["label 2"] == scores(None)


def test_evaluation_takes_regions_and_ignore_from_the_description(tmp_path: Path) -> None:
    indices = label_map()
    write(indices, tmp_path / "made" / "a.nrrd")
    partly = indices.copy()
    partly[3:] = 3
    references = tmp_path / "data" / "labelsTr"
    references.mkdir(parents=True)
    write_label_map(
        partly, LABELS, native=GEOMETRY, orientation=Orientation(), path=references / "a.nrrd",
        ignore=200,
    )  # fmt: skip
    described = {
        "labels": {"background": 0, "whole": [1, 7], "tumor": 7, "ignore": 200},
        "regions_class_order": [1, 7],
    }
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(described))
    table = evaluate_folders(tmp_path / "made", references)
    assert list(table.labels) == ["whole", "tumor"]
    assert table.mean.dice == table.mean.nsd == 1


def test_selection_scores_as_evaluation_does() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 5, (2, 6, 9, 9)).astype(np.int16)
    prediction[prediction == 4] = 0
    targets, spacing = nested(ignore=9), (2.0, 1.0, 1.0)
    expected = score_case(prediction, reference, targets, spacing).values()
    for metric in ("dice", "nsd"):
        found = score_names(
            prediction.astype(np.uint8), Reference(reference, spacing), targets, Measure(metric)
        )
        assert found == pytest.approx([getattr(item, metric) for item in expected])
