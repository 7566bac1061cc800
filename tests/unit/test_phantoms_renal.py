"""Generated kidneys: where they lie, what is labeled, and what tells malignant tumors from benign.

Size and brightness must not tell: a classifier that works has seen texture or border.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from selfseg.phantoms.renal import (
    AUXILIARY,
    GROWTHS,
    KIDNEY,
    MALIGNANT,
    PRIMARY,
    TUMOR,
    Style,
    draw_diagnosis,
    make_renal,
    write_renal_dataset,
)
from selfseg.phantoms.writing import Phantom

CASES = 60


def cases_of(style: Style, count: int) -> list[Phantom]:
    return [make_renal(np.random.default_rng([5, index]), style=style) for index in range(count)]


@pytest.fixture(scope="module")
def primary() -> list[Phantom]:
    return cases_of(PRIMARY, CASES)


@pytest.fixture(scope="module")
def malignant() -> list[bool]:
    draws = (draw_diagnosis(np.random.default_rng([5, index])) for index in range(CASES))
    return [draw == MALIGNANT for draw in draws]


def aucs(primary: list[Phantom], malignant: list[bool], measure: str) -> float:
    """Return how well one number of each tumor tells the classes, in either direction."""
    values = [MEASURES[measure](case.image, case.label == TUMOR) for case in primary]
    area = float(roc_auc_score(malignant, values))
    return max(area, 1 - area)


def roughness(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared difference of neighbors inside, as co-occurrence contrast measures it."""
    inner = ndimage.binary_erosion(mask)
    differences = [
        np.diff(image, axis=axis)[
            np.take(inner, range(1, inner.shape[axis]), axis)
            & np.take(inner, range(inner.shape[axis] - 1), axis)
        ]
        for axis in range(3)
    ]
    return float((np.concatenate(differences) ** 2).mean())


def raggedness(image: np.ndarray, mask: np.ndarray) -> float:
    """How unlike the distances of surface voxels from the middle are: 0 for a ball."""
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask)) * PRIMARY.spacing_mm
    middle = np.argwhere(mask).mean(axis=0) * PRIMARY.spacing_mm
    distances = np.linalg.norm(surface - middle, axis=1)
    return float(distances.std() / distances.mean())


MEASURES = {
    "volume": lambda image, mask: float(mask.sum()),
    "mean": lambda image, mask: float(image[mask].mean()),
    "spread": lambda image, mask: float(image[mask].std()),
    "roughness": roughness,
    "raggedness": raggedness,
}


@pytest.mark.parametrize("measure", ["volume", "mean"])
def test_size_and_brightness_do_not_tell_the_classes(
    primary: list[Phantom], malignant: list[bool], measure: str
) -> None:
    assert 20 < sum(malignant) < 40
    assert aucs(primary, malignant, measure) < 0.7


def test_texture_and_border_tell_them_but_not_all(
    primary: list[Phantom], malignant: list[bool]
) -> None:
    """Both can be learned; the spread of intensities, without their places, is a weak hint."""
    found = {name: aucs(primary, malignant, name) for name in MEASURES}
    assert 0.75 < found["roughness"] < 0.99, found
    assert 0.6 < found["raggedness"] < 0.95, found
    assert found["spread"] < 0.75, found


def test_means_of_texture_are_those_drawn(primary: list[Phantom]) -> None:
    """Noise and blur aside, a tumor's mean lies in the range of its style for both diagnoses."""
    for case in primary[:20]:
        inner = ndimage.binary_erosion(case.label == TUMOR)
        low, high = PRIMARY.tumor_hu
        assert low - 15 < case.image[inner].mean() < high + 15


@pytest.mark.parametrize("style", [PRIMARY, AUXILIARY], ids=["primary", "auxiliary"])
def test_one_tumor_touches_one_of_at_most_two_kidneys(style: Style) -> None:
    sides = []
    for case in cases_of(style, 12):
        tumor, kidney = case.label == TUMOR, case.label == KIDNEY
        assert case.label.shape == style.shape
        _, count = ndimage.label(tumor)
        assert count == 1
        assert (ndimage.binary_dilation(tumor) & kidney).any()
        edge = np.ones(style.shape, bool)
        edge[1:-1, 1:-1, 1:-1] = False
        assert not (edge & (case.label > 0)).any()
        middle = style.shape[2] // 2
        halves = (kidney[..., :middle].sum(), kidney[..., middle:].sum())
        sides.append(sum(half > 0 for half in halves))
        volume_ml = tumor.sum() * np.prod(style.spacing_mm) / 1000
        assert 1.0 < volume_ml < 12.0
    assert set(sides) == {1, 2}


def test_styles_show_one_body_differently(primary: list[Phantom]) -> None:
    """Same field of view; contrast, noise and window are the protocol's."""
    here, there = (np.multiply(style.shape, style.spacing_mm) for style in (PRIMARY, AUXILIARY))
    np.testing.assert_allclose(here, there)
    other = cases_of(AUXILIARY, 6)
    assert primary[0].image.min() < -900
    assert (other[0].image.min(), other[0].image.max()) == AUXILIARY.window_hu
    spreads = [
        np.mean([case.image[case.label == KIDNEY].std() for case in cases])
        for cases in (primary[:6], other)
    ]
    assert spreads[0] > spreads[1] + 2  # cortex and medulla differ in the arterial phase alone
    fat = [(case.image > -140) & (case.image < -60) for case in (primary[0], other[0])]
    noise = [
        case.image[ndimage.binary_erosion(here, iterations=2)].std()
        for case, here in zip((primary[0], other[0]), fat, strict=True)
    ]
    assert noise[0] > noise[1] + 2


def test_a_threshold_finds_neither_tumor_nor_kidney(primary: list[Phantom]) -> None:
    """Liver, muscle, bowel and vessels are as bright: a network has to know places and forms."""
    shares: dict[int, list[float]] = {KIDNEY: [], TUMOR: []}
    for case in primary[:10]:
        for value, found in shares.items():
            low, high = np.percentile(case.image[case.label == value], (10, 90))
            alike = (case.image > low) & (case.image < high)
            found.append(float((case.label[alike] == value).mean()))
    assert max(shares[TUMOR]) < 0.1
    assert np.mean(shares[KIDNEY]) < 0.5


def test_growths_overlap() -> None:
    for first, second in zip(*(vars(growth).values() for growth in GROWTHS.values()), strict=True):
        assert max(first[0], second[0]) < min(first[1], second[1])


def test_written_dataset_has_labels_and_diagnoses(tmp_path: Path) -> None:
    write_renal_dataset(tmp_path, name="renal", style=AUXILIARY, train=3, test=2, seed=4)
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "kidney": 1, "tumor": 2}
    assert described["channel_names"] == {"0": "CT"}
    rows: dict[str, str] = {}
    for part, count in (("Tr", 3), ("Ts", 2)):
        with (tmp_path / f"diagnosis{part}.csv").open() as file:
            table = list(csv.DictReader(file))
        assert [f"{row['case']}.nii.gz" for row in table] == sorted(
            path.name for path in (tmp_path / f"labels{part}").iterdir()
        )
        assert len(table) == count
        rows |= {row["case"]: row["diagnosis"] for row in table}
    generators = [np.random.default_rng([4, index]) for index in range(5)]
    assert list(rows.values()) == [draw_diagnosis(rng) for rng in generators]
    again = make_renal(np.random.default_rng([4, 4]), style=AUXILIARY)
    label = sitk.ReadImage(str(tmp_path / "labelsTs" / "case_004.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), again.label)
    np.testing.assert_allclose(label.GetSpacing(), (2.4, 2.4, 4.0), rtol=1e-6)
