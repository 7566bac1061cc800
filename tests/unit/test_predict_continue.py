"""`selfseg predict --continue` and `--part`: what is there and the same is kept, nothing else."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from continuing import CASES, again, entry, make_request, write_image
from tinymodel import save_model, tiny_configuration, tiny_plan
from typer.testing import CliRunner

from selfseg.arrays import Indices
from selfseg.cli.main import app
from selfseg.errors import ModelError, SelfSegError
from selfseg.inference import journal as journals
from selfseg.inference.predictor import PredictionReport
from selfseg.inference.quality import QualityMeter
from selfseg.io.companions import digest_image
from selfseg.pipeline import predict_images
from selfseg.records import serial
from selfseg.records.dataset import Case
from selfseg.records.prediction import PredictedCase
from selfseg.records.shape_model import CaseQuality, LabelQuality, PredictionQuality
from selfseg.requests import PredictRequest, parse_part
from selfseg.workspace.dataset import DatasetFolder


@pytest.fixture
def asked(tmp_path: Path) -> PredictRequest:
    return make_request(tmp_path)


def test_what_is_there_is_kept_and_what_is_missing_made(asked: PredictRequest) -> None:
    assert again(asked).done == CASES  # in an empty folder everything is made
    before = {case: (asked.output / f"{case}.nii.gz").stat().st_mtime_ns for case in CASES}
    content = (asked.output / "b.nii.gz").read_bytes()
    (asked.output / "b.nii.gz").unlink()
    report = again(asked)
    assert (report.done, report.kept) == (("b",), ("a", "c", "d", "e"))
    assert (asked.output / "b.nii.gz").read_bytes() == content
    for case in report.kept:
        assert (asked.output / f"{case}.nii.gz").stat().st_mtime_ns == before[case]
    assert again(asked).done == ()


def test_every_entry_is_read_once(asked: PredictRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    predict_images(asked)
    read: list[Path] = []
    load = serial.load

    def counted(kind: type[serial.RecordT], path: Path) -> serial.RecordT:
        if kind is PredictedCase:
            read.append(path)
        return load(kind, path)

    monkeypatch.setattr(serial, "load", counted)
    assert again(asked).kept == CASES
    assert read == [entry(asked, case) for case in CASES]


def test_without_the_option_everything_is_made_anew(asked: PredictRequest) -> None:
    predict_images(asked)
    report = predict_images(asked)
    assert (report.done, report.kept) == (CASES, ())
    assert again(asked).kept == CASES


def test_files_that_are_not_whole_and_changed_images_do_not_count(asked: PredictRequest) -> None:
    predict_images(asked)
    half = asked.output / "a.nii.gz"
    half.write_bytes(half.read_bytes()[:-20])
    write_image(asked.source / "b.nii.gz", seed=99)
    entry(asked, "c").write_text('{"case": "c"')  # a crash of the machine
    moved = asked.source / "d.nii.gz"  # the same image, copied
    moved.write_bytes(moved.read_bytes())
    report = again(asked)
    assert (report.done, report.kept) == (("a", "b", "c"), ("d", "e"))
    assert again(asked).kept == CASES


def test_voxels_in_a_file_of_their_own_count(asked: PredictRequest) -> None:
    apart = replace(asked, source=asked.source.with_name("apart"))
    for seed, case in enumerate(CASES):
        write_image(apart.source / f"{case}.mhd", seed)
    predict_images(apart)
    assert again(apart).kept == CASES
    other = replace(apart, source=apart.source.with_name("other"))
    write_image(other.source / "a.mhd", seed=99)
    (other.source / "a.raw").replace(apart.source / "a.raw")  # the header stays as it is
    (asked.output / "c.raw").unlink()
    assert again(apart).done == ("a", "c")
    assert again(apart).kept == CASES


def test_a_case_that_was_begun_is_not_finished(
    asked: PredictRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_images(asked)
    monkeypatch.setattr(journals.Journal, "finish", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):  # killed while label maps of before lie there
        predict_images(asked)
    monkeypatch.undo()
    begun = serial.load(PredictedCase, entry(asked, "a"))
    assert not begun.files
    report = again(asked)
    assert "a" in report.done
    assert "e" in report.kept


def test_label_maps_of_another_model_or_options_are_refused(
    asked: PredictRequest, tmp_path: Path
) -> None:
    predict_images(asked)
    before = {path: path.read_bytes() for path in asked.output.rglob("*") if path.is_file()}
    for changes, fields in (
        ({"tta": True}, "tta"),
        ({"step": 0.25}, "members"),
        ({"folds": ("1",)}, "members"),
        ({"folds": ("0", "1")}, "members"),
    ):
        with pytest.raises(ModelError, match=f"a, b, c and 2 more .* another {fields}") as caught:
            again(asked, **changes)
        assert "another folder" in caught.value.remedy
    assert again(asked, step=0.5).kept == CASES  # as planned
    assert before == {p: p.read_bytes() for p in asked.output.rglob("*") if p.is_file()}
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    assert again(asked, model=tmp_path / "moved").kept == CASES
    edited = tiny_configuration()
    inference = edited.inference.model_copy(update={"window_weight": "float16"})
    save_model(tmp_path / "moved", tiny_plan(edited.model_copy(update={"inference": inference})))
    with pytest.raises(ModelError, match="another members"):
        again(asked, model=tmp_path / "moved")


def test_label_maps_of_unknown_origin_are_refused(asked: PredictRequest) -> None:
    predict_images(asked)
    entry(asked, "c").unlink()
    with pytest.raises(ModelError, match=r"label maps of c, and nothing in \.predicted") as caught:
        again(asked)
    assert "without --continue" in caught.value.remedy
    # Label maps of other cases are nobody's business.
    assert again(asked, source=asked.source / "a.nii.gz").kept == ("a",)


def test_another_model_without_the_option_leaves_no_false_entry(asked: PredictRequest) -> None:
    predict_images(asked)
    predict_images(replace(asked, folds=("1",), source=asked.source / "b.nii.gz"))
    with pytest.raises(ModelError, match="label maps of b that were made"):
        again(asked)


def test_label_maps_that_were_to_be_replaced_are_replaced_after_an_interruption(
    asked: PredictRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(asked, folds=("1",))
    predict_images(replace(other, output=asked.output.with_name("whole")))
    predict_images(asked)
    entry(asked, "e").unlink()  # nobody knows what made it
    begin = journals.Journal.begin

    def killed(journal: journals.Journal, case: Case) -> None:
        if case.id == "b":
            raise SystemExit
        begin(journal, case)

    monkeypatch.setattr(journals.Journal, "begin", killed)
    with pytest.raises(SystemExit):
        predict_images(other)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="another members"):
        again(asked)
    assert {"b", "c", "d", "e"} <= set(again(other).done)
    for case in CASES:
        name = f"{case}.nii.gz"
        whole = asked.output.with_name("whole") / name
        assert (asked.output / name).read_bytes() == whole.read_bytes()


def test_probabilities_that_are_missing_are_made(asked: PredictRequest) -> None:
    predict_images(asked)
    assert again(asked, probabilities=True).done == CASES
    assert again(asked, probabilities=True).kept == CASES
    assert again(asked).kept == CASES
    (asked.output / "a_probabilities.npz").unlink()
    assert again(asked, probabilities=True).done == ("a",)


def test_parts_share_a_folder_and_make_every_case_once(asked: PredictRequest) -> None:
    reports = [again(asked, part=f"{number}/2") for number in (2, 1)]
    assert [report.done for report in reports] == [("b", "d"), ("a", "c", "e")]
    assert again(asked).kept == CASES
    assert again(asked, part="6/9") == PredictionReport((), ())
    whole = replace(asked, output=asked.output.with_name("whole"))
    predict_images(whole)
    for case in CASES:
        name = f"{case}.nii.gz"
        assert (asked.output / name).read_bytes() == (whole.output / name).read_bytes()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2", "1/0", "1/2/3", ""])
def test_no_part(text: str) -> None:
    with pytest.raises(SelfSegError, match="not a part"):
        parse_part(text)


def test_parts_are_a_division() -> None:
    items = list(range(11))
    parts = [items[parse_part(f"{number}/4")] for number in (1, 2, 3, 4)]
    assert sorted(chain.from_iterable(parts)) == items
    assert parts[1] == [1, 5, 9]


def test_the_command_says_what_was_done_before(asked: PredictRequest) -> None:
    command = [
        "predict", "-i", str(asked.source), "-o", str(asked.output), "-m", str(asked.model),
        "--folds", "0", "--no-tta", "--device", "cpu", "--part", "1/2", "--continue",
    ]  # fmt: skip
    assert "3 cases segmented" in CliRunner().invoke(app, command).stdout
    assert "3 cases done before" in CliRunner().invoke(app, command).stdout
    shown = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (shown["done"], shown["kept"]) == ([], ["a", "c", "e"])


def test_quality_of_all_parts_is_in_one_file(
    asked: PredictRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(meter: QualityMeter, case: str, indices: Indices) -> None:
        label = LabelQuality(name="core", score=float(np.mean(indices > 0)), low=0.0)
        meter.cases.append(CaseQuality(case=case, labels=(label,)))

    DatasetFolder(asked.model).fold("3d_fullres", "0").shape_tensors.write_bytes(b"shapes")
    monkeypatch.setattr(QualityMeter, "add", add)
    for part in ("1/2", "2/2"):
        again(asked, part=part)
    scores = serial.load(PredictionQuality, asked.output / "quality.json").cases
    assert [scored.case for scored in scores] == list(CASES)
    (asked.output / "quality.json").unlink()
    read: list[Path] = []

    def watched(path: Path) -> str:
        read.append(path)
        return digest_image(path)

    monkeypatch.setattr(journals, "digest_image", watched)
    for case in CASES:
        os.utime(asked.source / f"{case}.nii.gz", ns=(1, 1))  # copied
    report = again(asked)
    assert len(read) == len(CASES)  # what there is to score are label maps, not images
    assert (report.done, report.quality) == ((), scores)
    assert serial.load(PredictionQuality, asked.output / "quality.json").cases == scores
