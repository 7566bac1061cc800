"""`selfseg predict --continue` with cascades and ensembles."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from continuing import CASES, again, make_request
from tinymodel import save_model, tiny_configuration, tiny_plan

from selfseg.errors import ModelError
from selfseg.inference import journal as journals
from selfseg.inference.basis import prediction_basis
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, load_model
from selfseg.io.unlabeled import list_cases
from selfseg.pipeline import predict_images
from selfseg.records.dataset import Case
from selfseg.records.postprocessing import LargestComponent
from selfseg.records.shape_model import CaseQuality
from selfseg.requests import PredictRequest
from selfseg.workspace.dataset import DatasetFolder

CPU = torch.device("cpu")


@pytest.fixture
def asked(tmp_path: Path) -> PredictRequest:
    return make_request(tmp_path)


def staged_model(asked: PredictRequest) -> PredictRequest:
    """Write a cascade, and return how it is asked for."""
    low = tiny_configuration("3d_lowres")
    last = tiny_configuration().model_copy(
        update={"name": "3d_cascade", "previous_stage": "3d_lowres"}
    )
    folder = asked.output.with_name("staged")
    save_model(folder, tiny_plan(low, last))
    return replace(asked, model=folder, configuration="3d_cascade")


def maps_of_stage(output: Path) -> list[str]:
    """Return the cases whose label map of the previous stage is there."""
    folder = output / journals.HIDDEN_FOLDER / "3d_lowres"
    made = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz"))
    assert made == sorted(path.stem for path in folder.glob(".predicted/*.json"))
    return made


def test_what_the_previous_stage_made_is_kept_until_a_case_is_finished(
    asked: PredictRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = staged_model(asked)
    finish = journals.Journal.finish

    def fails(journal: journals.Journal, case: Case, quality: CaseQuality | None = None) -> None:
        if journal.output == asked.output and case.id == "c":
            raise OSError("disk full")
        finish(journal, case, quality)

    monkeypatch.setattr(journals.Journal, "finish", fails)
    assert [case for case, _ in again(staged, part="1/2").failed] == ["c"]
    monkeypatch.undo()
    assert maps_of_stage(asked.output) == ["c"]
    assert again(staged, part="2/2").done == ("b", "d")
    assert maps_of_stage(asked.output) == ["c"]  # of another job, which may be at work
    assert again(staged).done == ("c",)
    assert maps_of_stage(asked.output) == []


def test_a_cascade_goes_on_after_its_first_stage(
    asked: PredictRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = staged_model(asked)
    predict_images(replace(staged, output=tmp_path / "whole"))
    finish = journals.Journal.finish

    def killed(journal: journals.Journal, case: Case, quality: CaseQuality | None = None) -> None:
        if journal.output == asked.output and case.id == "b":
            raise SystemExit
        finish(journal, case, quality)

    monkeypatch.setattr(journals.Journal, "finish", killed)
    with pytest.raises(SystemExit):
        predict_images(staged)
    monkeypatch.undo()
    assert maps_of_stage(asked.output) == list(CASES)
    made: list[str] = []
    begin = journals.Journal.begin

    def watched(journal: journals.Journal, case: Case) -> None:
        made.append(f"{journal.output.name} {case.id}")
        begin(journal, case)

    monkeypatch.setattr(journals.Journal, "begin", watched)
    kept = again(staged).kept
    assert "a" in kept
    assert "b" not in kept
    assert made == [f"out {case}" for case in CASES if case not in kept]  # nothing of 3d_lowres
    for case in CASES:
        name = f"{case}.nii.gz"
        assert (asked.output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for folder in (asked.output, tmp_path / "whole"):
        assert not maps_of_stage(folder)
    weights = DatasetFolder(tmp_path / "staged").fold("3d_lowres", "0").weights
    shutil.copy(DatasetFolder(asked.model).fold("3d_fullres", "1").weights, weights)
    with pytest.raises(ModelError, match="another previous"):
        again(staged)


def test_an_ensemble_goes_on(asked: PredictRequest, tmp_path: Path) -> None:
    both = (tiny_configuration("2d"), tiny_configuration())
    folder = save_model(tmp_path / "two", tiny_plan(*both))
    members = tuple(load_model(folder.path, configuration=c.name, device=CPU) for c in both)
    cases = list_cases(asked.source, 1)

    def journal(ensemble: Ensemble, *, resume: bool) -> journals.Journal:
        basis = prediction_basis(ensemble, tta=False, step=None)
        return journals.Journal(asked.output, basis, resume=resume)

    ensemble = Ensemble(members)
    report = predict_ensemble(
        ensemble, cases[:3], asked.output, tta=False, journal=journal(ensemble, resume=False)
    )
    assert report.done == ("a", "b", "c")
    kept = journal(ensemble, resume=True).kept(cases)
    assert [entry.case for entry in kept] == ["a", "b", "c"]
    for other in (Ensemble(members[:1]), Ensemble(members, (LargestComponent(),))):
        with pytest.raises(ModelError, match=r"another (members|postprocessing)"):
            journal(other, resume=True).kept(cases)
