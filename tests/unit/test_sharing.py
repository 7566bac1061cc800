"""Configurations share a folder of arrays exactly if their arrays are the same for every case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from commandline import write_tiny_dataset
from plannerfacts import make_fingerprint

from selfseg.folds import find_configuration
from selfseg.io.images import label_indices, read_image, read_label_map
from selfseg.io.store import chunk_and_block, open_array
from selfseg.plan import plan_dataset
from selfseg.planned import PlanResult
from selfseg.preparing import prepare, prepare_all
from selfseg.preprocessing.case import prepare_case
from selfseg.preprocessing.dataset import CaseFiles
from selfseg.records import serial
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.preprocessing import Preprocessing, ZScore, spell_out_spacing
from selfseg.records.serial import Record, Triple
from selfseg.requests import PlanRequest
from selfseg.workspace.dataset import DatasetFolder

OWN = Preprocessing(axes=(0, 1, 2), spacing_mm=(None, 1.0, 1.5), normalization=(ZScore(),))
THREE = OWN.model_copy(update={"spacing_mm": (3.0, 1.0, 1.5)})
CASE = (3.0, 0.9, 1.6)


def measured(path: Path, *spacings: Triple) -> DatasetFolder:
    folder = DatasetFolder(path)
    serial.save(
        make_fingerprint([(spacing, (9, 20, 20)) for spacing in spacings]), folder.fingerprint
    )
    return folder


def test_options_are_equal_where_they_do_the_same() -> None:
    assert spell_out_spacing(OWN, [CASE, (3.0, 0.5, 0.5)]) == THREE
    assert spell_out_spacing(THREE, [CASE, (2.0, 0.5, 0.5)]) == THREE
    assert spell_out_spacing(OWN, [CASE, (3.0001, 0.9, 1.6)]) == OWN
    assert spell_out_spacing(OWN, []) == OWN
    turned = OWN.model_copy(update={"axes": (2, 0, 1)})
    assert spell_out_spacing(turned, [CASE]).spacing_mm == (1.6, 1.0, 1.5)
    stored = OWN.model_copy(update={"orientation": "stored"})
    assert spell_out_spacing(stored, [CASE]) == stored


def test_folders_of_equal_work_are_equal(tmp_path: Path) -> None:
    same = measured(tmp_path / "same", CASE, CASE)
    assert same.preprocessed(OWN) == same.preprocessed(THREE)
    assert same.preprocessed(OWN).name.startswith("3x1x1.5_")
    # What is the same for these cases need not be for those of the second data set.
    assert same.auxiliary_arrays(OWN) != same.auxiliary_arrays(THREE)
    arm = same.race("2d", "key").arm("plain", "2d")
    assert arm.preprocessed(OWN) == same.preprocessed(THREE)
    assert arm.spelled_out(OWN) == THREE
    mixed = measured(tmp_path / "mixed", CASE, (2.0, 0.9, 1.6))
    assert mixed.preprocessed(OWN) != mixed.preprocessed(THREE)
    assert mixed.preprocessed(OWN).name.startswith("ownx1x1.5_")
    unknown = DatasetFolder(tmp_path / "nothing")
    assert unknown.preprocessed(OWN).name == mixed.preprocessed(OWN).name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=3, test=0)


@pytest.fixture(scope="module")
def planned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> PlanResult:
    return plan_dataset(
        str(data), tmp_path_factory.mktemp("workspace"), PlanRequest(device="cpu", workers=1)
    )


def test_shared_arrays_are_those_of_each_configuration(planned: PlanResult) -> None:
    folder, dataset, plan = planned.folder, planned.dataset, planned.plan
    flat, full = (find_configuration(plan, name) for name in ("2d", "3d_fullres"))
    assert flat.preprocessing != full.preprocessing
    arrays = folder.preprocessed(flat.preprocessing)
    assert arrays == folder.preprocessed(full.preprocessing)
    assert list(arrays.parent.glob("[!.]*")) == [arrays]
    root = Path(dataset.root)
    for case in dataset.cases:
        assert case.reference is not None
        reference = label_indices(
            read_label_map(root / case.reference.path).array[0], dataset.labels
        )
        image = read_image([root / file.path for file in case.images])
        for options in (flat.preprocessing, full.preprocessing):
            expected = prepare_case(case.id, image, reference, options, targets=dataset.targets)
            files = CaseFiles(arrays, case.id)
            np.testing.assert_array_equal(open_array(files.image)[:], expected.image)
            assert expected.label is not None
            np.testing.assert_array_equal(open_array(files.label)[:], expected.label)


def test_nobody_makes_shared_arrays_anew(planned: PlanResult) -> None:
    arrays = planned.folder.preprocessed(planned.plan.configurations[0].preprocessing)
    before = {path: path.stat().st_mtime_ns for path in arrays.iterdir()}
    for item in planned.plan.configurations:
        made = prepare(
            planned.folder, planned.dataset, item, planned=planned.plan.configurations, workers=1
        )
        assert made == arrays
    assert {path: path.stat().st_mtime_ns for path in arrays.iterdir()} == before


@pytest.mark.parametrize("alone", [True, False])
def test_shared_arrays_have_blocks_for_slices(
    planned: PlanResult, tmp_path: Path, *, alone: bool
) -> None:
    full = find_configuration(planned.plan, "3d_fullres")
    flat = find_configuration(planned.plan, "2d")
    folder = DatasetFolder(tmp_path)
    serial.save(planned.fingerprint, folder.fingerprint)
    sharing = [full] if alone else [full, flat]
    arrays = prepare(folder, planned.dataset, full, planned=sharing, workers=1)
    image = open_array(CaseFiles(arrays, planned.dataset.cases[0].id).image)
    expected = chunk_and_block(image.shape, full.patch if alone else flat.patch, 4)
    assert (cast(Any, image).chunks, cast(Any, image).blocks) == expected
    assert (expected[1][1] > 1) == alone


def test_volumes_of_two_patches_share_arrays_made_for_the_first(
    planned: PlanResult, tmp_path: Path
) -> None:
    full = find_configuration(planned.plan, "3d_fullres")
    slab = full.model_copy(update={"name": "2.5d", "patch": (3, *full.patch[1:])})
    folder = DatasetFolder(tmp_path)
    serial.save(planned.fingerprint, folder.fingerprint)
    prepare_all(folder, planned.dataset, [slab, full], workers=1)
    arrays = folder.preprocessed(full.preprocessing)
    image = open_array(CaseFiles(arrays, planned.dataset.cases[0].id).image)
    assert (cast(Any, image).chunks, cast(Any, image).blocks) == chunk_and_block(
        image.shape, slab.patch, 4
    )


def test_facts_of_other_cases_are_forgotten_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PlanRequest(device="cpu", workers=1, preprocess=False)
    folder = plan_dataset(str(data), tmp_path, request).folder
    kept = folder.fingerprint.stat().st_mtime_ns
    save = serial.save

    def killed(record: Record, path: Path) -> None:
        if isinstance(record, Fingerprint):
            raise KeyboardInterrupt
        save(record, path)

    monkeypatch.setattr(serial, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        plan_dataset(str(data), tmp_path, request)
    assert folder.fingerprint.stat().st_mtime_ns == kept  # they are of the same cases
    fewer = tmp_path / "fewer.txt"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").iterdir())
    fewer.write_text("\n".join(cases[:2]))
    with pytest.raises(KeyboardInterrupt):
        plan_dataset(str(data), tmp_path, replace(request, cases=fewer))
    assert not folder.fingerprint.exists()
