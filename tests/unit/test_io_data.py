"""The readers on real files: every case of the data sets, and the odd ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from realdata import data_root

from selfseg.errors import ImageError
from selfseg.io.checks import check_case
from selfseg.io.formats import read_dataset
from selfseg.io.geometry import grid_differences
from selfseg.io.images import (
    image_ending,
    label_indices,
    read_image,
    read_label_map,
    write_label_map,
)
from selfseg.io.unlabeled import list_cases

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "cases", "channels", "groups"),
    [
        ("hippocampus", 160, 1, 0),
        ("nodules", 346, 1, 190),
        ("vessels", 20, 3, 10),
        ("ms_lesions", 2, 4, 0),
        ("sarcoma", 24, 3, 0),
        ("cine", 120, 1, 0),
        ("nuclei", 60, 3, 0),
    ],
)
def test_data_sets_are_read_without_complaint(
    tmp_path: Path, name: str, cases: int, channels: int, groups: int
) -> None:
    root = data_root(name)
    dataset = read_dataset(root)
    assert len(dataset.cases) == cases
    if groups:
        assert len({case.group for case in dataset.cases}) == groups
    for case in dataset.cases[:: max(1, cases // 12)]:
        assert case.reference is not None
        image = read_image([root / file.path for file in case.images])
        reference = read_label_map(root / case.reference.path)
        assert image.array.shape[0] == channels
        assert check_case(case, image, reference, dataset) == []
        path = tmp_path / f"{case.id}{image_ending(Path(case.reference.path))}"
        write_label_map(
            label_indices(reference.array, dataset.labels)[0],
            dataset.labels,
            native=reference.native,
            orientation=reference.orientation,
            path=path,
        )
        before = sitk.ReadImage(str(root / case.reference.path))
        after = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
        assert before.GetSize() == after.GetSize()
        np.testing.assert_allclose(before.GetSpacing(), after.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(before.GetOrigin(), after.GetOrigin(), rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(before.GetDirection(), after.GetDirection(), atol=1e-6)


def test_cine_labels_have_their_value(tmp_path: Path) -> None:
    dataset = read_dataset(data_root("cine"))
    assert [(label.name, label.value) for label in dataset.labels] == [("left_ventricle", 255)]


def test_cases_to_predict() -> None:
    assert len(list_cases(data_root("hippocampus/imagesTs"), 1)) == 40
    nuclei = list_cases(data_root("nuclei/imagesTs"), 3)
    assert len(nuclei) == 20
    assert {len(case.images) for case in nuclei} == {1}
    sarcoma = list_cases(data_root("sarcoma/imagesTr"), 3)
    assert {len(case.images) for case in sarcoma} == {3}


def test_odd_pair_of_label_and_image_is_told_apart() -> None:
    odd = data_root("hippocampus/odd")
    image = read_image([odd / "IMAGE_ONLY_hippocampus_118.nii.gz"])
    label = read_label_map(odd / "LABEL_ONLY_hippocampus_281.nii.gz")
    assert grid_differences(image.geometry, label.geometry)[0].startswith("size 33×52×37 and 94×51")


def test_voxels_of_odd_nifti_files_are_those_of_itk() -> None:
    read = 0
    for path in sorted(data_root("odd_files").rglob("*.nii*")):
        if path.name in ("example_nifti2.nii.gz", "row_major.dconn.nii"):
            continue
        image = read_image([path])
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        native = np.sort(expected.astype(np.float32), axis=None)
        # ITK turns NaN into 0 in silence; here they stay, to be found by check_case.
        found = np.sort(np.nan_to_num(image.array), axis=None)
        np.testing.assert_allclose(found, native, rtol=1e-5, atol=1e-5)
        assert np.isnan(image.array).any() == (path.name == "resampled_anat_moved.nii")
        read += 1
    assert read > 35


def test_unsupported_formats_are_refused() -> None:
    root = data_root("odd_files/nibabel")
    names = ("test.mgz", "tiny.mnc", "T1.PAR", "scaled+tlrc.HEAD", "analyze.hdr", "nifti1.hdr")
    for name in (*names, "example_nifti2.nii.gz", "row_major.dconn.nii"):
        with pytest.raises(ImageError, match=name.replace("+", r"\+")) as caught:
            read_image([root / name])
        assert caught.value.remedy


def test_soft_mask_is_refused_and_float_labels_are_not() -> None:
    root = data_root("odd_files/sct")
    with pytest.raises(ImageError, match="whole numbers"):
        read_label_map(root / "mt/mt1_gmseg.nii.gz")
    labeled = read_label_map(root / "t2/t2_seg-manual_labeled.nii.gz")
    assert np.unique(labeled.array).tolist() == [0, 2, 3, 4, 5]
    assert read_label_map(root / "t2s/t2s_seg-deepseg.nii.gz").array.max() == 1


def test_oblique_images_and_their_masks_share_a_canonical_grid() -> None:
    root = data_root("odd_files")
    pairs = (
        ("sct/t2/t2.nii.gz", "sct/t2/t2_seg-manual.nii.gz"),
        ("sct/mt/mt1.nii.gz", "sct/mt/mt1_seg.nii.gz"),
        ("pyradiomics/brain1_image.nrrd", "pyradiomics/brain1_label.nrrd"),
        ("pyradiomics/breast1_image.nrrd", "pyradiomics/breast1_label.nrrd"),
        ("totalsegmentator/example_ct_sm.nii.gz", "totalsegmentator/example_seg.nii.gz"),
    )
    for image_name, label_name in pairs:
        image, label = read_image([root / image_name]), read_label_map(root / label_name)
        assert grid_differences(image.geometry, label.geometry) == []
        assert image.orientation == label.orientation
        assert all(image.geometry.direction[2 - axis][axis] > 0.7 for axis in range(3))
    mri = [root / "sct/mt" / name for name in ("mt0.nii.gz", "mt1.nii.gz", "t1w.nii.gz")]
    assert read_image(mri).array.shape[0] == 3


def test_microscopy_tiff() -> None:
    root = data_root("microscopy/stardist")
    volume, mask = read_image([root / "img3d.tif"]), read_label_map(root / "mask3d.tif")
    assert volume.array.shape == mask.array.shape == (1, 31, 61, 57)
    flat = read_image([root / "img2d.tif"])
    assert flat.geometry.is_2d
    assert flat.array.shape == (1, 1, 512, 512)
