import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from selfseg.evaluation.challenge import (
    chaos,
    chaos_scores,
    dice_of_voe,
    sliver07,
    sliver07_scores,
)
from selfseg.records.serial import Triple

SPACING: Triple = (2.5, 0.8, 0.7)


def blob(seed: int, shape: tuple[int, int, int] = (9, 12, 14)) -> np.ndarray:
    """Return a random mask, ragged and in several parts, that touches no side of the image."""
    mask = np.zeros(shape, dtype=bool)
    inner = tuple(size - 2 for size in shape)
    mask[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).random(inner) < 0.6
    return mask


def box(shape: tuple[int, int, int], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def program_borders(mask: np.ndarray, kernel: int) -> np.ndarray:
    """Return border voxels as SimpleITK's erosion (the SLIVER07 program's library) gives them."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    eroded = sitk.GetArrayFromImage(sitk.BinaryErode(image, (1, 1, 1), kernel))
    return np.argwhere(mask & (eroded == 0)) * SPACING


def pooled(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distances = cdist(a, b)
    return np.concatenate([distances.min(axis=1), distances.min(axis=0)])


def test_published_means_give_published_scores() -> None:
    scores = sliver07_scores(
        voe_percent=5.9, rvd_percent=2.7, asd_mm=0.91, rmsd_mm=1.88, msd_mm=18.94
    )
    assert scores.total_score == pytest.approx(77.76, abs=0.005)
    other = sliver07_scores(
        voe_percent=5.42, rvd_percent=-1.75, asd_mm=0.79, rmsd_mm=1.64, msd_mm=33.55
    )
    assert other.total_score == pytest.approx(76.57, abs=0.005)
    assert other.rvd_percent == -1.75


def test_a_human_rater_scores_75_and_no_score_is_negative() -> None:
    human = sliver07_scores(voe_percent=6.4, rvd_percent=-4.7, asd_mm=1, rmsd_mm=1.8, msd_mm=19)
    assert human.total_score == pytest.approx(75)
    awful = sliver07_scores(voe_percent=99, rvd_percent=900, asd_mm=50, rmsd_mm=60, msd_mm=300)
    assert awful.total_score == 0


def test_dice_follows_from_the_overlap_error() -> None:
    assert dice_of_voe(5.42) == pytest.approx(0.9721, abs=5e-5)
    assert (dice_of_voe(0), dice_of_voe(100)) == (1, 0)


def test_scores_of_the_example_of_chaos() -> None:
    scores = chaos_scores(dice=0.978, ravd_percent=0.665, assd_mm=0.734, mssd_mm=14.0)
    parts = (scores.dice_score, scores.ravd_score, scores.assd_score, scores.mssd_score)
    assert parts == pytest.approx((97.80, 86.70, 95.11, 76.67), abs=0.005)
    assert scores.total_score == pytest.approx(89.07, abs=0.005)


def test_limits_of_chaos_cut() -> None:
    at = chaos_scores(dice=0.8, ravd_percent=4.0, assd_mm=12.0, mssd_mm=57.0)
    parts = (at.dice_score, at.ravd_score, at.assd_score, at.mssd_score)
    assert parts == pytest.approx((80, 20, 20, 5))
    beyond = chaos_scores(dice=0.7999, ravd_percent=5.1, assd_mm=15.1, mssd_mm=60.1)
    assert beyond.total_score == 0


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_those_of_borders_made_by_another_library(seed: int) -> None:
    a, b = blob(seed), blob(seed + 100)
    ball = pooled(*(program_borders(mask, sitk.sitkBall) for mask in (a, b)))
    found = sliver07(a, b, SPACING)
    expected = (ball.mean(), math.sqrt((ball**2).mean()), ball.max())
    assert (found.asd_mm, found.rmsd_mm, found.msd_mm) == pytest.approx(expected)
    cross = pooled(*(program_borders(mask, sitk.sitkCross) for mask in (a, b)))
    other = chaos(a, b, SPACING)
    assert (other.assd_mm, other.mssd_mm) == pytest.approx((cross.mean(), cross.max()))


def test_the_borders_of_both_programs_differ() -> None:
    # Where an edge is missing, the voxels diagonally behind it are border of SLIVER07 alone.
    solid = box((9, 9, 9), (1, 8), (1, 8), (1, 8))
    dented = solid.copy()
    dented[1, 1, :] = False
    assert sliver07(dented, solid, (1.0, 1.0, 1.0)).asd_mm != pytest.approx(
        chaos(dented, solid, (1.0, 1.0, 1.0)).assd_mm
    )


def test_overlap_and_volume_of_a_shifted_box() -> None:
    reference = box((10, 10, 20), (2, 8), (2, 8), (2, 12))
    result = box((10, 10, 20), (2, 8), (2, 8), (4, 16))
    found, other = sliver07(result, reference, SPACING), chaos(result, reference, SPACING)
    assert found.voe_percent == pytest.approx(100 * (1 - 8 / 14))
    assert found.rvd_percent == pytest.approx(20.0)
    assert sliver07(reference, result, SPACING).rvd_percent == pytest.approx(-100 / 6)
    assert found.msd_mm == other.mssd_mm == pytest.approx(4 * 0.7)
    assert other.dice == pytest.approx(16 / 22)
    assert other.ravd_percent == pytest.approx(20.0)
    assert other.dice_score == other.ravd_score == 0


def test_a_side_of_the_image_makes_no_border() -> None:
    reference = box((6, 8, 8), (0, 6), (0, 8), (0, 3))
    result = box((6, 8, 8), (0, 6), (0, 8), (0, 5))
    # All border is the plane that faces the rest of the image.
    found, other = sliver07(result, reference, SPACING), chaos(result, reference, SPACING)
    assert (found.asd_mm, found.msd_mm) == pytest.approx((1.4, 1.4))
    assert (other.assd_mm, other.mssd_mm) == pytest.approx((1.4, 1.4))
    full = np.ones((3, 4, 5), dtype=bool)
    assert sliver07(full, full, SPACING).total_score == 100
    assert chaos(full, full, SPACING).total_score == 100


def test_an_empty_result_has_the_planted_voxel() -> None:
    reference = box((6, 8, 8), (2, 3), (3, 4), (5, 6))
    empty = np.zeros_like(reference)
    found = sliver07(empty, reference, SPACING)
    away = math.dist((2.5, 0.8, 0.7), (5.0, 2.4, 3.5))
    assert (found.voe_percent, found.rvd_percent) == (100, -100)
    assert (found.asd_mm, found.rmsd_mm, found.msd_mm) == pytest.approx((away, away, away))
    other = chaos(empty, reference, SPACING)
    assert (other.dice, other.ravd_percent, other.total_score) == (0, 100, 0)
    assert other.assd_mm is other.mssd_mm is None


def test_an_empty_reference_leaves_all_undefined() -> None:
    mask = box((6, 8, 8), (2, 3), (3, 4), (5, 6))
    for found in (sliver07, chaos):
        scores = found(mask, np.zeros_like(mask), SPACING)
        assert {value for _, value in scores} == {None}


@pytest.mark.parametrize("score", [sliver07, chaos])
def test_what_is_not_known_does_not_count(score) -> None:  # type: ignore[no-untyped-def]
    reference = box((8, 12, 12), (0, 8), (3, 9), (3, 9))
    result = reference.copy()
    result[:, :, 8] = False
    known = np.zeros_like(reference)
    known[2:6] = True
    disturbed = result.copy()
    disturbed[6:] ^= True
    expected = score(result, reference, SPACING)
    for a in (result, disturbed):
        found = score(a, reference, SPACING, known)
        for name, value in expected:
            assert getattr(found, name) == pytest.approx(value), name


def test_only_known_borders_are_measured_from() -> None:
    reference = box((7, 14, 14), (0, 7), (3, 9), (3, 9))
    result = reference.copy()
    result[:3] = np.roll(reference[:3], 3, axis=2)
    known = np.zeros_like(reference)
    known[[0, 5, 6]] = True
    spacing = (1000.0, 1.0, 1.0)  # the nearest border voxel is in the same slice
    inner = box((1, 14, 14), (0, 1), (4, 8), (4, 8))
    outline = np.argwhere(reference[:1] & ~inner)
    apart = pooled(outline, outline + np.array([0, 0, 3]))
    for score in (sliver07(result, reference, spacing, known).asd_mm,
                  chaos(result, reference, spacing, known).assd_mm):  # fmt: skip
        assert score == pytest.approx(apart.mean() / 3)  # two of three slices are the same


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        chaos(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool), SPACING)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.integers(0, 2))
def test_distances_are_symmetric_and_do_not_depend_on_the_place(seed: int, shift: int) -> None:
    a, b = (np.pad(blob(seed + i, (6, 7, 8)), 3) for i in (0, 1))
    there, back = sliver07(a, b, SPACING), sliver07(b, a, SPACING)
    assert there.asd_mm == pytest.approx(back.asd_mm)
    assert there.msd_mm == pytest.approx(back.msd_mm)
    elsewhere = [np.roll(mask, shift, axis=(0, 1, 2)) for mask in (a, b)]
    moved = sliver07(elsewhere[0], elsewhere[1], SPACING)
    assert moved.rmsd_mm == pytest.approx(there.rmsd_mm)
    assert sliver07(a, a, SPACING).total_score == chaos(a, a, SPACING).total_score == 100
