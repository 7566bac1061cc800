import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.evaluation.topology import (
    WINDOW,
    betti_errors,
    centerline_dice,
    recall_by_thickness,
    thin_voxels,
    topology_scores,
    window_errors,
)


def bar(*rows: tuple[int, int], shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Return a mask (y, x) with horizontal bars from first to last row (exclusive)."""
    mask = np.zeros(shape, dtype=bool)
    for start, stop in rows:
        mask[start:stop, 5:55] = True
    return mask


def ring(inner: float, outer: float, size: int = 40) -> np.ndarray:
    y, x = np.indices((size, size)) - (size - 1) / 2
    return np.asarray((np.hypot(y, x) >= inner) & (np.hypot(y, x) <= outer))


def torus(size: int = 24) -> np.ndarray:
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    return np.asarray((np.hypot(y, x) - 7) ** 2 + z**2 <= 6)


def shell(size: int = 16) -> np.ndarray:
    distance = np.sqrt(((np.indices((size,) * 3) - (size - 1) / 2) ** 2).sum(axis=0))
    return np.asarray((distance >= 3) & (distance <= 6))


def test_betti_errors_in_a_plane() -> None:
    solid = ring(0, 15)
    assert betti_errors(ring(8, 15), solid) == (0, 1, None)
    assert betti_errors(bar((3, 6), (10, 13), (20, 22)), solid) == (2, 0, None)
    assert betti_errors(np.zeros_like(solid), ring(8, 15)) == (1, 1, None)


def test_betti_errors_in_a_volume() -> None:
    solid = np.zeros((24, 24, 24), dtype=bool)
    solid[4:20, 4:20, 4:20] = True
    assert betti_errors(torus(), solid) == (0, 1, 0)
    assert betti_errors(shell(), np.zeros_like(shell())) == (1, 0, 1)
    assert betti_errors(torus(), np.zeros_like(solid)) == (1, 1, 0)


def test_corners_join_foreground_but_not_background() -> None:
    diagonal = np.eye(4, dtype=bool)
    assert betti_errors(diagonal, np.zeros_like(diagonal)) == (1, 0, None)
    diamond = np.zeros((5, 5), dtype=bool)
    diamond[1, 2] = diamond[3, 2] = diamond[2, 1] = diamond[2, 3] = True
    assert betti_errors(diamond, np.zeros_like(diamond)) == (1, 1, None)
    volume = np.zeros((2, 2, 2), dtype=bool)
    volume[0, 0, 0] = volume[1, 1, 1] = True
    assert betti_errors(volume, np.zeros_like(volume)) == (1, 0, 0)


def test_windows_show_what_evens_out_in_the_whole_image() -> None:
    reference = bar((3, 6), (20, 23), shape=(64, 128))
    prediction = np.roll(reference, 64, axis=1)
    assert betti_errors(prediction, reference) == (0, 0, None)
    assert window_errors(prediction, reference) == (2, 0, None)
    assert WINDOW == 64


def test_windows_that_are_empty_in_both_masks_do_not_count() -> None:
    reference = np.zeros((200, 200), dtype=bool)
    reference[10:20, 10:20] = True
    reference[70:75, 10:20] = True
    prediction = reference.copy()
    prediction[10, 12:14] = False
    prediction[13, 5] = True
    assert window_errors(prediction, reference) == (0.5, 0, None)
    assert window_errors(np.zeros_like(reference), np.zeros_like(reference)) == (None, None, None)


def test_windows_of_a_volume_have_three_dimensions() -> None:
    reference = np.zeros((70, 20, 20), dtype=bool)
    reference[2:18, 2:18, 2:18] = shell()
    reference[66:69, 5:8, 5:8] = True
    drilled, bridged = reference.copy(), reference.copy()
    drilled[2:10, 10, 10] = False
    bridged[5:15, 10, 10] = True
    assert window_errors(drilled, reference) == (0, 0, 0.5)
    assert window_errors(bridged, reference) == (0, 0.5, 0)


def test_centerline_dice() -> None:
    reference = bar((10, 15), (25, 30))
    assert centerline_dice(reference, reference) == 1
    thicker = bar((9, 16), (24, 31))
    assert centerline_dice(thicker, reference) == 1
    # One of two equal bars: everything predicted is right, half of the center line is missed.
    assert centerline_dice(bar((10, 15)), reference) == pytest.approx(2 / 3)
    assert centerline_dice(bar((10, 15)), bar((25, 30))) == 0
    empty = np.zeros_like(reference)
    assert centerline_dice(empty, empty) is None
    assert centerline_dice(empty, reference) == centerline_dice(reference, empty) == 0


@pytest.mark.parametrize("width", range(1, 8))
def test_bars_of_up_to_three_pixels_are_thin(width: int) -> None:
    mask = bar((10, 10 + width))
    np.testing.assert_array_equal(thin_voxels(mask), mask if width <= 3 else np.zeros_like(mask))


@pytest.mark.parametrize("width", range(1, 6))
def test_rods_of_up_to_three_voxels_are_thin(width: int) -> None:
    mask = np.zeros((30, 12, 12), dtype=bool)
    mask[3:27, 3 : 3 + width, 4 : 4 + width] = True
    np.testing.assert_array_equal(thin_voxels(mask), mask if width <= 3 else np.zeros_like(mask))


def test_a_thin_branch_of_a_thick_stem() -> None:
    mask = bar((8, 20))
    branch = np.zeros_like(mask)
    branch[20:38, 30:32] = True
    found = thin_voxels(mask | branch)
    assert found[24:37, 30:32].all()
    assert not found[:19].any()


def test_recall_by_thickness() -> None:
    reference = bar((5, 7), (20, 30))
    prediction = bar((5, 6), (20, 30))
    assert recall_by_thickness(prediction, reference) == (0.5, 1)
    assert recall_by_thickness(prediction, bar((20, 30))) == (None, 1)
    assert recall_by_thickness(prediction, bar((5, 7))) == (0.5, None)
    assert recall_by_thickness(np.zeros_like(reference), reference) == (0, 0)


def test_scores_of_a_plane_stored_as_a_volume() -> None:
    reference = bar((5, 7), (20, 30))
    prediction = bar((5, 6), (20, 30), (33, 36))
    found = topology_scores(prediction[None], reference[None])
    assert found == topology_scores(prediction[:, None], reference[:, None])
    assert (found.betti0_error, found.betti1_error, found.betti2_error) == (1, 0, None)
    assert (found.betti0_window_error, found.betti2_window_error) == (1, None)
    assert (found.thin_recall, found.thick_recall) == (0.5, 1)
    assert found.cldice == centerline_dice(prediction, reference)


def test_empty_masks() -> None:
    empty = np.zeros((8, 9, 10), dtype=bool)
    found = topology_scores(empty, empty)
    assert (found.betti0_error, found.betti1_error, found.betti2_error) == (0, 0, 0)
    assert found.cldice is found.betti0_window_error is found.thin_recall is None


def test_what_is_not_known_counts_as_empty() -> None:
    reference, known = bar((5, 8), (20, 30))[None], bar((0, 15))[None]
    prediction = bar((5, 8), (33, 39))[None]
    found = topology_scores(prediction, reference, known)
    assert found == topology_scores(bar((5, 8))[None], bar((5, 8))[None])
    assert found.betti0_error == 0
    assert found.cldice == 1


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        topology_scores(np.ones((1, 2, 2), bool), np.ones((1, 2, 3), bool))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_perfect_prediction_is_perfect_wherever_it_lies(seed: int) -> None:
    mask = np.random.default_rng(seed).random((4, 9, 9)) < 0.35
    mask[2, 4, 4] = True
    found = topology_scores(mask, mask)
    assert (found.betti0_error, found.betti1_error, found.betti2_error) == (0, 0, 0)
    assert found.cldice == 1
    assert found.thin_recall in (1, None)
    assert found.thick_recall in (1, None)
