import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.evaluation.surface import (
    average_distance_mm,
    hausdorff_mm,
    normalized_surface_dice,
    surface_distances,
)
from selfseg.evaluation.surfels import neighbor_codes, surfel_sizes


def blank(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=bool)


def ball(shape: tuple[int, int, int], center: float, radius: float) -> np.ndarray:
    grid = np.indices(shape) - center
    return np.asarray((grid**2).sum(axis=0) <= radius**2)


def surface_size(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    return float(surfel_sizes(spacing)[neighbor_codes(mask)].sum())


def test_flat_surfaces_have_the_area_of_a_voxel_face() -> None:
    areas = surfel_sizes((2.0, 3.0, 5.0))
    assert areas[0] == areas[255] == 0
    assert areas[0b00001111] == pytest.approx(15.0)  # first z inside: face of y and x
    assert areas[0b00110011] == pytest.approx(10.0)  # first y inside: face of z and x
    assert areas[0b01010101] == pytest.approx(6.0)  # first x inside: face of z and y


def test_one_corner_cuts_off_a_triangle() -> None:
    # Heron's formula on the triangle through three edge middles
    z, y, x = 1.0, 1.5, 2.5
    a, b, c = math.hypot(z, y), math.hypot(y, x), math.hypot(z, x)
    half = (a + b + c) / 2
    area = math.sqrt(half * (half - a) * (half - b) * (half - c))
    sizes = surfel_sizes((2.0, 3.0, 5.0))
    for bit in range(8):
        assert sizes[1 << bit] == pytest.approx(area)
        assert sizes[255 - (1 << bit)] == pytest.approx(area)


def test_sizes_do_not_depend_on_the_side_of_an_axis() -> None:
    sizes = surfel_sizes((1.0, 2.0, 0.7))
    codes = np.arange(256)
    for stride in (4, 2, 1):  # bits of the corners along z, y, x
        mirrored = np.zeros_like(codes)
        for bit in range(8):
            mirrored |= (codes >> bit & 1) << (bit ^ stride)
        np.testing.assert_allclose(sizes[mirrored], sizes)


def test_lengths_of_contours() -> None:
    lengths = surfel_sizes((3.0, 4.0))
    assert lengths[0b0011] == pytest.approx(4.0)  # runs along x
    assert lengths[0b0101] == pytest.approx(3.0)
    assert lengths[0b0001] == pytest.approx(2.5)
    assert lengths[0b0110] == pytest.approx(5.0)  # diagonal voxels stay apart


def test_box_area_is_that_of_its_faces_without_the_cut_edges() -> None:
    mask = blank(9, 9, 9)
    mask[1:8, 2:7, 3:6] = True
    z, y, x = 7, 5, 3
    faces = 2 * ((z - 1) * (y - 1) + (y - 1) * (x - 1) + (z - 1) * (x - 1))
    edges = 4 * (z - 1 + y - 1 + x - 1) * math.sqrt(0.5)
    corners = 8 * math.sqrt(3) / 8
    assert surface_size(mask, (1.0, 1.0, 1.0)) == pytest.approx(faces + edges + corners)


@pytest.mark.parametrize("radius", [8.0, 15.3, 21.0])
def test_ball_area_is_close_to_the_formula(radius: float) -> None:
    # Binary voxels cannot do better than a few percent: edge middles overestimate slightly.
    mask = ball((48, 48, 48), 23.7, radius)
    ratio = surface_size(mask, (1.0, 1.0, 1.0)) / (4 * math.pi * radius**2)
    assert 1.0 < ratio < 1.08


def test_circle_length_is_close_to_the_formula() -> None:
    grid = np.indices((90, 90)) - 44.6
    ratio = surface_size((grid**2).sum(axis=0) <= 40**2, (1.0, 1.0)) / (2 * math.pi * 40)
    assert 1.0 < ratio < 1.06


def test_two_voxels_2mm_apart() -> None:
    a, b = blank(16, 16, 16), blank(16, 16, 16)
    a[8, 8, 5] = True
    b[8, 8, 7] = True
    distances = surface_distances(a, b, (3.0, 2.0, 1.0))
    assert average_distance_mm(distances) == pytest.approx(1.5)  # half at 1 mm, half at 2 mm
    assert hausdorff_mm(distances) == pytest.approx(2.0)
    assert normalized_surface_dice(distances, 1.0) == pytest.approx(0.5)
    assert normalized_surface_dice(distances, 2.0) == pytest.approx(1.0)


def test_single_voxels_diagonally_apart_in_anisotropic_spacing() -> None:
    a, b = blank(10, 10, 10), blank(10, 10, 10)
    a[2, 2, 2] = True
    b[6, 2, 5] = True
    distances = surface_distances(a, b, (2.0, 1.0, 0.5))
    assert hausdorff_mm(distances, percent=100) == pytest.approx(math.hypot(8.0, 1.5))


def test_shifted_cubes() -> None:
    a, b = blank(40, 40, 40), blank(40, 40, 40)
    a[10:30, 10:30, 10:30] = True
    b[10:30, 10:30, 13:33] = True
    distances = surface_distances(a, b, (1.0, 1.0, 2.0))
    assert hausdorff_mm(distances, percent=100) == pytest.approx(6.0)
    # a whole face of each cube is exactly 6 mm off: more than a twentieth of the surface
    assert hausdorff_mm(distances) == pytest.approx(6.0)
    nsd = normalized_surface_dice(distances, 5.9)
    assert nsd is not None
    assert nsd < 5 / 6 + 0.04
    assert normalized_surface_dice(distances, 6.0) == pytest.approx(1.0)


def test_concentric_balls() -> None:
    inner, outer = ball((64, 64, 64), 31.5, 14.0), ball((64, 64, 64), 31.5, 20.0)
    distances = surface_distances(inner, outer, (0.5, 0.5, 0.5))
    # distances run between cells that the surfaces pass through: exact to about one voxel
    assert average_distance_mm(distances) == pytest.approx(3.0, abs=0.3)
    assert hausdorff_mm(distances) == pytest.approx(3.0, abs=0.5)
    ratio = distances.sizes_b.sum() / distances.sizes_a.sum()
    assert ratio == pytest.approx((20 / 14) ** 2, rel=0.03)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rectangles_in_a_plane(axis: int) -> None:
    a, b = blank(30, 40), blank(30, 40)
    a[5:15, 5:25] = True
    b[9:19, 5:25] = True
    spacing = [1.5, 0.5]
    spacing.insert(axis, 9.0)
    distances = surface_distances(
        np.expand_dims(a, axis), np.expand_dims(b, axis), (spacing[0], spacing[1], spacing[2])
    )
    assert hausdorff_mm(distances, percent=100) == pytest.approx(6.0)
    sides = 9 * 1.5 * 2 + 19 * 0.5 * 2 + 4 * math.hypot(0.75, 0.25)
    assert distances.sizes_a.sum() == pytest.approx(sides)


def test_a_flat_label_in_a_thick_volume_is_a_surface() -> None:
    mask = blank(3, 6, 6)
    mask[1, 1:5, 1:5] = True
    size = surface_distances(mask, mask, (1.0, 1.0, 1.0)).sizes_a.sum()
    assert size > 2 * 9


def test_equal_masks_are_at_no_distance() -> None:
    mask = ball((20, 20, 20), 9.5, 6)
    distances = surface_distances(mask, mask, (1.0, 1.0, 1.0))
    assert hausdorff_mm(distances, percent=100) == 0
    assert average_distance_mm(distances) == 0
    assert normalized_surface_dice(distances, 0.0) == 1


def test_empty_masks() -> None:
    mask, empty = ball((20, 20, 20), 9.5, 6), blank(20, 20, 20)
    for a, b in ((mask, empty), (empty, mask)):
        distances = surface_distances(a, b, (1.0, 1.0, 1.0))
        assert hausdorff_mm(distances) is None
        assert average_distance_mm(distances) is None
        assert normalized_surface_dice(distances, 1.0) == 0
    distances = surface_distances(empty, empty, (1.0, 1.0, 1.0))
    assert hausdorff_mm(distances) is None
    assert normalized_surface_dice(distances, 1.0) is None


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        surface_distances(blank(2, 2, 2), blank(2, 2, 3), (1.0, 1.0, 1.0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.3, 4.0)] * 3))
def test_metrics_are_symmetric_and_ignore_empty_margins(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 5, 6, 7)) < 0.3
    padded_a, padded_b = (np.pad(mask, 2) for mask in (a, b))
    for metric in (hausdorff_mm, average_distance_mm, lambda d: normalized_surface_dice(d, 1.0)):
        value = metric(surface_distances(a, b, spacing))
        assert metric(surface_distances(b, a, spacing)) == pytest.approx(value)
        assert metric(surface_distances(padded_a, padded_b, spacing)) == pytest.approx(value)


def test_what_is_known_everywhere_is_measured_as_ever() -> None:
    a, b = ball((20, 21, 22), 9.0, 5.0), ball((20, 21, 22), 10.0, 6.0)
    plain = surface_distances(a, b, (2.0, 1.0, 1.0))
    known = surface_distances(a, b, (2.0, 1.0, 1.0), np.ones_like(a))
    np.testing.assert_array_equal(plain.from_a_mm, known.from_a_mm)
    np.testing.assert_array_equal(plain.sizes_b, known.sizes_b)


def test_the_end_of_the_annotation_makes_no_surface() -> None:
    # A rod along z, known in some slices only; predicted one voxel too wide along x.
    reference, prediction, known = blank(12, 12, 12), blank(12, 12, 12), blank(12, 12, 12)
    reference[:, 3:7, 3:7] = True
    prediction[:, 3:7, 3:8] = True
    known[5] = True
    cut = reference & known  # what lies elsewhere is not in the files
    found = surface_distances(prediction, cut, (1.0, 1.0, 1.0), known)
    assert hausdorff_mm(found, percent=100) == pytest.approx(1.0)
    same = surface_distances(reference, cut, (1.0, 1.0, 1.0), known)
    assert hausdorff_mm(same, percent=100) == 0
    assert normalized_surface_dice(same, 0.0) == 1


def test_errors_where_nothing_is_known_do_not_count() -> None:
    reference, prediction = blank(20, 12, 12), blank(20, 12, 12)
    reference[2:6, 3:8, 3:8] = prediction[2:6, 3:8, 3:8] = True
    prediction[14:18, 2:9, 2:9] = True
    known = np.zeros_like(reference)
    known[:10] = True
    assert hausdorff_mm(surface_distances(prediction, reference, (1.0, 1.0, 1.0), known)) == 0
    everywhere = hausdorff_mm(surface_distances(prediction, reference, (1.0, 1.0, 1.0)))
    assert everywhere is not None
    assert everywhere > 5


def test_a_mask_without_known_voxels_is_empty() -> None:
    reference, prediction = blank(6, 8, 8), blank(6, 8, 8)
    known = np.zeros_like(reference)
    known[:3] = True
    prediction[3:, 2:5, 2:5] = True
    nothing = surface_distances(prediction, reference, (1.0, 1.0, 1.0), known)
    assert normalized_surface_dice(nothing, 1.0) is None
    reference[1, 2:5, 2:5] = True
    missed = surface_distances(prediction, reference, (1.0, 1.0, 1.0), known)
    assert normalized_surface_dice(missed, 1.0) == 0
    assert hausdorff_mm(missed) is None


def test_partly_known_planes_are_measured_by_contours() -> None:
    reference, prediction, known = blank(1, 12, 12), blank(1, 12, 12), blank(1, 12, 12)
    reference[0, 3:7, 3:7] = prediction[0, 3:7, 3:7] = True
    known[0, :, :5] = True
    prediction[0, 3:7, 7:9] = True
    assert hausdorff_mm(surface_distances(prediction, reference, (1.0, 1.0, 1.0), known)) == 0


@pytest.mark.parametrize("every", [2, 3, 20])
def test_some_slices_measure_a_prism_as_all_slices_do(every: int) -> None:
    """What is predicted in a slice nobody annotated must not shorten distances in the others."""
    y, x = np.ogrid[:24, :48]
    reference, prediction = blank(11, 24, 48), blank(11, 24, 48)
    reference[:], prediction[:] = (np.hypot(y - 12, x - center) < 8 for center in (10, 36))
    known = np.zeros_like(reference)
    known[5 % every :: every] = True
    cut = reference & known
    found = surface_distances(prediction, cut, (3.0, 1.0, 1.0), known)
    assert normalized_surface_dice(found, 5.0) == 0
    inside = slice(1, -1)  # no caps: the ends of the volume are surfaces of the whole prism
    whole = surface_distances(prediction, reference, (3.0, 1.0, 1.0))
    assert hausdorff_mm(found) == pytest.approx(hausdorff_mm(whole), abs=1e-6)
    assert average_distance_mm(found) == pytest.approx(average_distance_mm(whole), rel=0.02)
    # Whatever is predicted elsewhere, the result is the same.
    other = prediction & known
    other[:, inside, inside] |= ~known[:, inside, inside]
    again = surface_distances(other, cut, (3.0, 1.0, 1.0), known)
    np.testing.assert_array_equal(again.from_a_mm, found.from_a_mm)
    np.testing.assert_array_equal(again.from_b_mm, found.from_b_mm)
