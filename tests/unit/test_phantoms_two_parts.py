"""Generated structures of two parts: where they lie, and that nothing simple tells them.

Place, size and scale of intensities must vary, or a network would learn numbers in place of forms.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from selfseg.phantoms.two_parts import (
    ANTERIOR,
    BRIGHT_FLUID_BALL,
    DARK_FLUID,
    POSTERIOR,
    Style,
    make_two_parts,
    write_two_parts_dataset,
)
from selfseg.phantoms.writing import Phantom

SMALL = ((16, 20, 16), (20, 24, 20))
STYLES = {
    "dark": replace(DARK_FLUID, shapes=SMALL),
    "ball": replace(BRIGHT_FLUID_BALL, shapes=SMALL),
}


def cases_of(style: Style, count: int) -> list[Phantom]:
    return [make_two_parts(np.random.default_rng([3, i]), style=style) for i in range(count)]


@pytest.fixture(scope="module")
def cases() -> list[Phantom]:
    return cases_of(STYLES["dark"], 20)


def normalized(case: Phantom) -> np.ndarray:
    spread: np.ndarray = (case.image - case.image.mean()) / case.image.std()
    return spread


def test_two_connected_parts_touch_the_wide_one_in_front(cases: list[Phantom]) -> None:
    for case in cases:
        front, back = case.label == ANTERIOR, case.label == POSTERIOR
        assert [ndimage.label(part)[1] for part in (front, back, front | back)] == [1, 1, 1]
        (z, y, _), (other_z, other_y, _) = (np.argwhere(p).mean(axis=0) for p in (front, back))
        assert y < other_y - 3  # y grows to the back
        assert z < other_z  # the narrow end lies above
        assert 0.5 < front.sum() / back.sum() < 2.5


def test_grids_places_sizes_and_scales_vary(cases: list[Phantom]) -> None:
    low, high = SMALL
    shapes = {case.label.shape for case in cases}
    assert len(shapes) > 10
    assert all(
        (np.array(low) <= shape).all() and (shape <= np.array(high)).all() for shape in shapes
    )
    shares = [(case.label > 0).mean() for case in cases]
    assert max(shares) > 1.5 * min(shares)
    middles = [np.argwhere(case.label > 0).mean(axis=0) / case.label.shape for case in cases]
    assert (np.std(middles, axis=0) > 0.015).all()
    scales = np.log10([case.image.mean() for case in cases])
    assert scales.max() - scales.min() > 1.5
    assert all(case.image.min() >= 0 for case in cases)


def test_no_range_of_intensities_finds_the_structure(cases: list[Phantom]) -> None:
    """Cortex and lumps are as gray, so its form and place have to be known."""
    precision = []
    for case in cases:
        inside = case.label > 0
        low, high = np.percentile(case.image[inside], (10, 90))
        precision.append(inside[(case.image > low) & (case.image < high)].mean())
    assert np.mean(precision) < 0.5


def test_styles_differ_in_contrast_and_anatomy(cases: list[Phantom]) -> None:
    """What is gray lies below the mean where most is white, above it where most is dark."""
    balls = cases_of(STYLES["ball"], 6)
    skews = [np.mean([(normalized(c) ** 3).mean() for c in found]) for found in (cases[:6], balls)]
    assert skews[0] < -0.2
    assert skews[1] > 1.0
    for case in balls:
        ball = case.label > 0
        assert case.label.max() == 1
        volume = 4 / 3 * np.pi * np.prod((np.ptp(np.argwhere(ball), axis=0) + 1) / 2)
        assert 0.7 < ball.sum() / volume < 1.4  # an ellipsoid fills its box like that


def test_full_size_is_that_of_the_scans_it_stands_for() -> None:
    case = make_two_parts(np.random.default_rng(0), style=DARK_FLUID)
    assert case.geometry.spacing_mm == (1.0, 1.0, 1.0)
    for value in (ANTERIOR, POSTERIOR):
        assert 700 < (case.label == value).sum() < 3500  # mm³
        assert -1.2 < normalized(case)[case.label == value].mean() < 0.0


def test_written_dataset_is_reproduced_by_its_seed(tmp_path: Path) -> None:
    for style, names in ((STYLES["dark"], ["anterior", "posterior"]), (STYLES["ball"], ["nodule"])):
        root = tmp_path / style.anatomy
        write_two_parts_dataset(root, name="generated", style=style, train=2, test=1, seed=4)
        described = json.loads((root / "dataset.json").read_text())
        assert described["labels"] == {"background": 0, **{n: i + 1 for i, n in enumerate(names)}}
        assert described["channel_names"] == {"0": "MRI"}
        again = make_two_parts(np.random.default_rng([4, 2]), style=style)
        for part, array in (
            ("imagesTs/case_002_0000", again.image),
            ("labelsTs/case_002", again.label),
        ):
            image = sitk.ReadImage(str(root / f"{part}.nii.gz"))
            np.testing.assert_allclose(sitk.GetArrayFromImage(image), array, rtol=1e-6)
