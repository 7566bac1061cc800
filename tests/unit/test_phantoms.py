"""Generated data: the same for a seed, and in thick slices nothing but neighbors tells lesions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from selfseg.phantoms.slices import LESION, SHAPE, make_slices, write_slices_dataset
from selfseg.phantoms.soft import make_soft


def test_a_seed_gives_the_same_case() -> None:
    first, again, other = (make_slices(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.label, other.label)


def discs(mask: np.ndarray, image: np.ndarray) -> list[tuple[float, float]]:
    """Area and mean brightness of every cross-section."""
    found = []
    for plane, values in zip(mask, image, strict=True):
        labels, count = ndimage.label(plane)
        for index in range(1, count + 1):
            here = labels == index
            found.append((float(here.sum()), float(values[here].mean())))
    return found


def test_cross_sections_of_lesions_and_vessels_look_alike() -> None:
    lesions, vessels, spans = [], [], []
    for seed in range(30):
        phantom = make_slices(np.random.default_rng(seed))
        lesion = phantom.label == LESION
        smooth = ndimage.gaussian_filter(phantom.image, (0, 1, 1))
        bright = (smooth > 125) & ~ndimage.binary_dilation(lesion, np.ones((1, 5, 5)))
        lesions += discs(lesion, phantom.image)
        vessels += [disc for disc in discs(bright, phantom.image) if 14 < disc[0] < 60]
        labels, count = ndimage.label(lesion)
        spans += [np.ptp(np.nonzero(labels == i)[0]) + 1 for i in range(1, count + 1)]
    assert set(spans) <= {1, 2}
    assert len(vessels) > len(lesions) > 100
    (area_l, value_l), (area_v, value_v) = (np.mean(x, axis=0) for x in (lesions, vessels))
    assert abs(area_l - area_v) < 6
    assert abs(value_l - value_v) < 12


def test_written_dataset_is_that_of_nnunet(tmp_path: Path) -> None:
    write_slices_dataset(tmp_path, name="slices", train=2, test=1, seed=0)
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "organ": 1, "lesion": 2}
    assert len(list((tmp_path / "imagesTr").iterdir())) == 2
    label = sitk.ReadImage(str(tmp_path / "labelsTs" / "case_002.nii.gz"))
    np.testing.assert_allclose(label.GetSpacing(), (0.8, 0.8, 5.0), rtol=1e-6)
    assert label.GetSize() == tuple(reversed(SHAPE))


def test_soft_organs_have_contrast_in_spite_of_noise() -> None:
    phantom, again = (make_soft(np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(phantom.image, again.image)
    organ = phantom.label == 1
    _, count = ndimage.label(organ)
    assert count == 1
    assert organ.sum() > 1000
    assert not any(organ.take(end, axis).any() for axis in range(3) for end in (0, -1))
    shell = ndimage.binary_dilation(organ) & ~organ
    core = organ & ~ndimage.binary_erosion(organ)
    step = phantom.image[core].mean() - phantom.image[shell].mean()
    assert 1 < step / phantom.image[organ].std() < 3
    # A voxel alone is often on the wrong side of the middle: neighbors are needed.
    wrong = (phantom.image > 80) != organ
    assert 0.02 < wrong[ndimage.binary_dilation(organ, iterations=3)].mean() < 0.2
