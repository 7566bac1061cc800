"""Regions of a mask: numbers as in `measure`, one at a time in memory."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from lesioncases import write_case
from lesiontable import small_plan

from selfseg.classification import deep, regions
from selfseg.classification.kinds import measure_regions
from selfseg.classification.region_files import RegionFiles, find_files, region_of_interest
from selfseg.classification.regions import RegionFeatures, compute_features, region_masks
from selfseg.errors import DatasetError
from selfseg.evaluation.measure import read_masked
from selfseg.records.classification import FeatureKind, FeatureSelection, RegionOfInterest


def files(lesions: frozenset[int] | None = None) -> RegionFiles:
    region = RegionOfInterest(name="tumor", values=(2,))
    return RegionFiles("a", Path("a.nrrd"), (), region, "lesion", lesions)


def test_lesions_are_components_of_the_region_by_size() -> None:
    labels = np.zeros((3, 8, 8), np.int32)
    labels[1, 1:4, 1:4] = 2
    labels[1, 6, 6] = 2
    labels[2, 7, 7] = 1  # touches the small one, but is another label
    (one, large), (two, small) = region_masks(files(), labels)
    assert (one, two) == (1, 2)
    assert (large.sum(), small.sum()) == (9, 1)
    assert small[1, 6, 6]
    ((number, only),) = region_masks(files(frozenset({2})), labels)
    assert number == 2
    assert np.array_equal(only, small)


def test_many_lesions_do_not_need_as_many_volumes() -> None:
    labels = np.zeros((64, 64, 64), np.int32)
    labels[::8, ::8, ::8] = 2
    tracemalloc.start()
    count = sum(int(mask.sum()) for _, mask in region_masks(files(), labels))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 512
    assert peak < 30 * labels.size  # bytes; a mask is one a voxel, 512 would be 512


def a_case(folder: Path) -> RegionFiles:
    """Write a case with two lesions, which are one region."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    write_case(folder, 0)
    image = folder / "imagesTr" / "case00_0000.nii.gz"
    region = RegionOfInterest(name="tumor", values=(2,))
    return RegionFiles("a", folder / "labelsTr" / "case00.nii.gz", (image,), region, "case")


def test_other_contours_are_drawn_as_the_plan_says(tmp_path: Path) -> None:
    plan, case = small_plan(), a_case(tmp_path)
    still = plan.selection.model_copy(update={"jitters": 2, "shift_voxels": 0.0})

    def read(contours: FeatureSelection | None) -> RegionFeatures:
        found = compute_features([case], plan.radiomics, contours=contours, seed=0, workers=1)
        return found[0]

    assert read(None).readings == ()
    moved = read(plan.selection)
    assert len(moved.readings) == 3
    assert all(reading != moved.values for reading in moved.readings)
    eroded, dilated, *jittered = read(still).readings
    assert jittered == [moved.values, moved.values]
    assert moved.values not in (eroded, dilated)


@pytest.mark.parametrize("kind", get_args(FeatureKind))
def test_files_are_checked_once_before_a_network_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: FeatureKind
) -> None:
    """Radiomics read masks and images and check them: no second look at what they have seen."""
    case, read = a_case(tmp_path), []

    def counted(*paths: Any) -> Any:
        read.append(paths)
        return read_masked(*paths)

    monkeypatch.setattr(regions, "read_masked", counted)
    pooled = [np.zeros(2)]
    monkeypatch.setattr(deep, "pooled_bottleneck", lambda *_: pooled)

    def measure(*channels: str) -> list[RegionFeatures]:
        network: Any = SimpleNamespace(plan=SimpleNamespace(channels=channels))
        return measure_regions(
            [case], small_plan(), kind, None if kind == "radiomics" else network,
            contours=None, seed=0, workers=1,
        )  # fmt: skip

    (found,) = measure("CT")
    assert ("deep_1" in found.values) is (kind != "radiomics")
    assert ("shape_sphericity" in found.values) is (kind != "deep")
    assert len(read) == 1
    if kind != "radiomics":
        pooled.clear()  # the network is not reached
        with pytest.raises(DatasetError, match="1 of 1 cases cannot be used"):
            measure("CT", "PET")


def describe(folder: Path, labels: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))
    return folder


def test_names_in_predicted_masks_are_those_of_the_data_set_of_the_images(tmp_path: Path) -> None:
    images = describe(tmp_path / "data", {"kidney": 1, "tumor": 2}) / "imagesTr"
    images.mkdir()
    masks = tmp_path / "fold_0" / "validation"
    masks.mkdir(parents=True)
    found = region_of_interest([masks], "tumor", images=images)
    assert (found.name, found.values) == ("tumor", (2,))
    with pytest.raises(DatasetError, match=r"--region liver: neither .*kidney, tumor"):
        region_of_interest([masks], "liver", images=images)
    # Without a name nothing is looked up: every value above 0 counts.
    assert region_of_interest([masks], None, images=images).values == ()
    # What lies beside the masks goes first.
    describe(masks, {"tumor": 7})
    assert region_of_interest([masks], "tumor", images=images).values == (7,)


def test_masks_that_no_label_names_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks, images = tmp_path / "masks", tmp_path / "images"
    for folder, ending in ((masks, ""), (images, "_0000")):
        folder.mkdir()
        for case in "abc":
            (folder / f"{case}{ending}.nii.gz").touch()
    region = RegionOfInterest(name="foreground", values=())
    with caplog.at_level(logging.INFO):
        found = find_files([masks], images, region, "case", {"b": ()})
        assert [item.id for item in found] == ["b"]
        assert "2 of 3 masks have no line in the labels and are not used: a, c" in caplog.text
        caplog.clear()
        assert len(find_files([masks], images, region, "case", {"a": (), "b": (), "c": ()})) == 3
        assert len(find_files([masks], images, region, "case")) == 3
    assert not caplog.text
