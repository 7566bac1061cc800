"""`selfseg evaluate`: the usual output, families of metrics, fields of view."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from selfseg.cli.main import app
from selfseg.errors import GeometryError, SelfSegError
from selfseg.evaluation.challenge import sliver07
from selfseg.evaluation.evaluate import evaluate_folders
from selfseg.evaluation.field_of_view import field_of_view_scores
from selfseg.evaluation.further import Further
from selfseg.evaluation.table import csv_text
from selfseg.io.images import write_label_map
from selfseg.records import serial
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.metrics import MetricsTable
from selfseg.requests import parse_metrics

LABELS = (Label(name="vessel", value=1), Label(name="lesion", value=2))
GEOMETRY = Geometry(shape=(6, 12, 14), spacing_mm=(2.0, 1.0, 1.0))
USUAL = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_difference_ml")
ALL = "overlap,sliver07,chaos,topology,lesions"
# Stored from right to left and from back to front of what selfseg works with.
TURNED = Geometry(
    shape=(6, 12, 14),
    spacing_mm=(2.0, 1.0, 1.0),
    origin_mm=(13.0, 11.0, 0.0),
    direction=((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
)
FLIPS = (False, True, True)


def reference_map() -> np.ndarray:
    indices = np.zeros(GEOMETRY.shape, dtype=np.int16)
    indices[1:5, 2:10, 3:6] = 1
    indices[2:4, 2:4, 9:11] = 2
    return indices


def prediction_map() -> np.ndarray:
    indices = np.roll(reference_map(), 1, axis=2)
    indices[4, 10, 12] = 2
    return indices


def write(
    indices: np.ndarray,
    path: Path,
    geometry: Geometry = GEOMETRY,
    flips: tuple[bool, bool, bool] = (False, False, False),
) -> None:
    orientation = Orientation(flips=flips)
    write_label_map(indices, LABELS, native=geometry, orientation=orientation, path=path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made, true = tmp_path / "made", tmp_path / "labelsTr"
    for case in ("a", "b"):
        write(prediction_map(), made / f"{case}.nrrd")
        write(reference_map(), true / f"{case}.nrrd")
    described = {"labels": {"background": 0, "vessel": 1, "lesion": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    return made, true


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--workers", "1"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_usual_output_knows_no_families(folders: tuple[Path, Path], tmp_path: Path) -> None:
    made, true = folders
    plain = run("-p", made, "-r", true, "--json", "-o", tmp_path / "scores")
    assert plain == run("-p", made, "-r", true, "--json", "--metrics", "overlap")
    table = json.loads(plain)
    assert list(table) == ["mean", "labels", "cases", "basis"]
    rows = (table["mean"], table["labels"]["lesion"], table["cases"][0]["labels"]["vessel"])
    assert {tuple(row) for row in rows} == {USUAL}
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == ",".join(("case", "label", *USUAL))


def test_families_stand_beside_the_usual_metrics(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, true = folders
    plain = json.loads(run("-p", made, "-r", true, "--json"))
    stem = tmp_path / "scores"
    table = json.loads(run("-p", made, "-r", true, "--metrics", ALL, "--json", "-o", stem))
    for found, usual in zip(table["cases"], plain["cases"], strict=True):
        for name, scores in found["labels"].items():
            assert list(scores) == [*USUAL, "sliver07", "chaos", "topology", "lesions"]
            assert {key: scores[key] for key in USUAL} == usual["labels"][name]
    lesions = table["labels"]["lesion"]["lesions"]
    assert (lesions["reference_count"], lesions["predicted_count"]) == (1, 2)
    assert lesions["precision"] == 0.5
    expected = sliver07(prediction_map() == 1, reference_map() == 1, GEOMETRY.spacing_mm)
    assert table["labels"]["vessel"]["sliver07"] == expected.model_dump()
    loaded = serial.load(MetricsTable, stem.with_suffix(".json"))
    assert loaded.model_dump(mode="json") == table
    rows = list(csv.DictReader(stem.with_suffix(".csv").read_text().splitlines()))
    assert [row["label"] for row in rows[-3:]] == ["vessel", "lesion", "mean"]
    assert rows[1]["lesions_precision"] == "0.5"
    assert float(rows[0]["sliver07_asd_mm"]) == pytest.approx(expected.asd_mm, rel=1e-5)
    assert rows[0]["topology_betti0_error"] == "0"
    assert None not in rows[0]


def test_families_are_averaged_over_what_defines_them(folders: tuple[Path, Path]) -> None:
    made, true = folders
    write(np.zeros(GEOMETRY.shape, np.int16), true / "b.nrrd")
    table = evaluate_folders(made, true, further=parse_metrics("sliver07,lesions", None))
    first = table.cases[0].labels["vessel"]
    assert table.labels["vessel"].sliver07 == first.sliver07
    assert table.labels["vessel"].lesions is not None
    assert table.labels["vessel"].lesions.precision == 0.5
    assert table.mean.chaos is None


def test_tables_on_the_screen(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made, true = folders
    plain = run("-p", made, "-r", true)
    everything = run("-p", made, "-r", true, "--metrics", "chaos")
    assert everything.startswith(plain)
    assert "total_score" in everything[len(plain) :]


def test_unknown_families_are_named(folders: tuple[Path, Path]) -> None:
    made, true = folders
    arguments = ["evaluate", "-p", str(made), "-r", str(true), "--metrics", "chaos,slivers"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, SelfSegError)
    assert "'slivers'" in str(result.exception)
    assert "Choose from overlap, sliver07, chaos, topology, lesions" in str(result.exception)


def inside_mask() -> np.ndarray:
    mask = np.zeros(GEOMETRY.shape, dtype=np.int16)
    mask[:, :, :8] = 1
    return mask


def write_probabilities(folder: Path, case: str, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """Write probabilities in the axes of the label map's file; return them in canonical axes."""
    rng = np.random.default_rng(0)
    soft = np.stack([prediction_map() == index for index in (0, 1, 2)]) + rng.random((3, 6, 12, 14))
    soft = np.asarray(soft / soft.sum(axis=0), np.float16)
    axes = tuple(1 + axis for axis, flip in enumerate(flips) if flip)
    path = folder / f"{case}_probabilities.npz"
    names = np.array(["background", "vessel", "lesion"])
    np.savez_compressed(path, probabilities=np.flip(soft, axes), labels=names)
    return soft


def test_nothing_counts_outside_a_field_of_view(folders: tuple[Path, Path], tmp_path: Path) -> None:
    made, true = folders
    for case in ("a", "b"):
        write(inside_mask(), tmp_path / "fields" / f"{case}.nii.gz")
    table = json.loads(
        run("-p", made, "-r", true, "--field-of-view", tmp_path / "fields", "--json",
            "--metrics", "lesions,topology")
    )  # fmt: skip
    lesion = table["labels"]["lesion"]
    assert lesion["dice"] is None
    assert lesion["lesions"]["predicted_count"] == 0
    assert lesion["topology"]["cldice"] is None
    vessel = table["cases"][1]["labels"]["vessel"]
    expected = field_of_view_scores(
        prediction_map() == 1, reference_map() == 1, inside_mask().astype(bool)
    )
    assert vessel["field_of_view"] == expected.model_dump()
    assert vessel["field_of_view"]["auc"] is None
    assert vessel["dice"] == vessel["field_of_view"]["f1"]


@pytest.mark.parametrize(
    ("geometry", "flips"), [(GEOMETRY, (False, False, False)), (TURNED, FLIPS)]
)
def test_probabilities_are_read_in_the_axes_of_their_file(
    folders: tuple[Path, Path],
    tmp_path: Path,
    geometry: Geometry,
    flips: tuple[bool, bool, bool],
) -> None:
    made, true = folders
    write(prediction_map(), made / "a.nrrd", geometry, flips)
    soft = write_probabilities(made, "a", flips)
    for case in ("a", "b"):
        write(inside_mask(), tmp_path / "fields" / f"{case}.nrrd")
    table = evaluate_folders(made, true, further=Further((), tmp_path / "fields"))
    first, second = (case.labels["vessel"].field_of_view for case in table.cases)
    inside = inside_mask().astype(bool)
    assert first == field_of_view_scores(soft[1], reference_map() == 1, inside)
    assert first is not None
    assert first.auc is not None
    assert second is not None
    assert second.auc is None
    mean = table.labels["vessel"].field_of_view
    assert mean is not None
    assert mean.auc == first.auc
    assert "field_of_view_otsu_f1" in csv_text(table)


def test_probabilities_without_a_field_of_view_are_left_alone(folders: tuple[Path, Path]) -> None:
    made, true = folders
    plain = run("-p", made, "-r", true, "--json")
    (made / "a_probabilities.npz").write_bytes(b"nothing of use")
    assert run("-p", made, "-r", true, "--json") == plain


def test_mistakes_about_fields_of_view_are_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, true = folders
    fields = tmp_path / "fields"
    write(inside_mask(), fields / "a.nrrd")
    further = Further((), fields)
    with pytest.raises(SelfSegError, match="no field of view for 1 of 2 cases: b"):
        evaluate_folders(made, true, further=further)
    write(np.zeros(GEOMETRY.shape, np.int16), fields / "b.nrrd")
    with pytest.raises(SelfSegError, match=r"b\.nrrd: the field of view is empty"):
        evaluate_folders(made, true, further=further)
    other = GEOMETRY.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    write(inside_mask(), fields / "b.nrrd", other)
    with pytest.raises(GeometryError, match=r"b\.nrrd: not on the grid"):
        evaluate_folders(made, true, further=further)


def test_probabilities_that_do_not_fit_are_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, true = folders
    for case in ("a", "b"):
        write(inside_mask(), tmp_path / "fields" / f"{case}.nrrd")
    further, path = Further((), tmp_path / "fields"), made / "b_probabilities.npz"
    names = np.array(["background", "vessel", "lesion"])
    path.write_bytes(b"nothing of use")
    with pytest.raises(SelfSegError, match="not readable as probabilities"):
        evaluate_folders(made, true, further=further)
    np.savez(path, probabilities=np.zeros((3, 5, 12, 14)), labels=names)
    with pytest.raises(SelfSegError, match=r"\(3, 5, 12, 14\), not \(3, 6, 12, 14\)"):
        evaluate_folders(made, true, further=further)
    np.savez(path, probabilities=np.zeros((3, 6, 12, 14)), labels=["background", "vessel", "x"])
    with pytest.raises(SelfSegError, match="but not lesion"):
        evaluate_folders(made, true, further=further)
