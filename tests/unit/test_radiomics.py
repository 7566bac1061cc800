"""Features of regions: the IBSI's digital phantom, closed forms, what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import data_root
from scipy import ndimage

from selfseg.io.images import read_image, read_label_map
from selfseg.radiomics.cooccurrence import DIRECTIONS, cooccurrence_features, features_of
from selfseg.radiomics.extract import prepare_region, region_features
from selfseg.radiomics.first_order import histogram_features, intensity_features
from selfseg.radiomics.perturb import agreement, perturbed_regions
from selfseg.radiomics.region import (
    Region,
    cut_region,
    discretize,
    grid_of_levels,
    resample_region,
)
from selfseg.radiomics.shape import (
    center_shift_mm,
    longest_axial_mm,
    longest_distance,
    shape_features,
)
from selfseg.records.features import ChannelFeatures, OwnScale, RadiomicsOptions, ZScoreScale

# The digital phantom of the IBSI (Zwanenburg et al., 2020): 5 x 4 x 4 voxels of 2 mm, 74 inside.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [1, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 9, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    dtype=np.float64,
)
OUTSIDE = ((1, 2, 0), (2, 0, 3), (2, 0, 4), (2, 2, 2), (3, 0, 3), (3, 0, 4))
MERGED = {
    "joint_maximum": 0.5085, "joint_average": 2.1490, "joint_entropy": 2.5739,
    "angular_second_moment": 0.2910, "contrast": 5.1176, "dissimilarity": 1.3795,
    "inverse_difference_moment": 0.6306,
}  # fmt: skip
AVERAGED = {
    "joint_maximum": 0.5028, "joint_average": 2.1430, "joint_entropy": 2.3997,
    "angular_second_moment": 0.3030, "contrast": 5.3245, "dissimilarity": 1.4310,
    "inverse_difference_moment": 0.6177,
}  # fmt: skip
# Further values of the IBSI's reference manual, to the digits that it gives.
MANUAL = {
    "joint_variance": 3.13, "difference_variance": 3.21, "difference_entropy": 1.64,
    "sum_entropy": 2.11, "inverse_difference": 0.688, "inverse_difference_normalized": 0.856,
    "inverse_difference_moment_normalized": 0.902, "inverse_variance": 0.0574,
    "correlation": 0.183, "autocorrelation": 5.19, "cluster_tendency": 7.41,
    "cluster_shade": 17.4, "cluster_prominence": 147, "information_1": -0.0288,
    "information_2": 0.269,
}  # fmt: skip
AS_IT_IS = RadiomicsOptions(
    spacing_mm=1.0, channels=(ChannelFeatures(scale=OwnScale(), bin_width=1.0),)
)


def phantom() -> Region:
    mask = np.ones(PHANTOM.shape, dtype=bool)
    for place in OUTSIDE:
        mask[place] = False
    return Region(PHANTOM[None], mask, (2.0, 2.0, 2.0))


def ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    counts = [2 * math.ceil(radius_mm / step) + 3 for step in spacing_mm]
    axes = [(np.arange(n) - n // 2) * step for n, step in zip(counts, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 <= radius_mm**2)


def test_the_phantom_is_the_published_one() -> None:
    folder = data_root("odd_files") / "ibsi_digital_phantom" / "nifti"
    image = read_image([folder / "image" / "phantom.nii.gz"])
    mask = read_label_map(folder / "mask" / "mask.nii.gz")
    assert np.array_equal(image.array, phantom().channels)
    assert np.array_equal(mask.array[0] > 0, phantom().mask)


def test_intensities_of_the_phantom() -> None:
    region = phantom()
    found = intensity_features(region.channels[0][region.mask])
    expected = {
        "mean": 2.14865, "variance": 3.04547, "skewness": 1.08382, "kurtosis": -0.35462,
        "median": 1, "minimum": 1, "p10": 1, "p90": 4, "maximum": 6, "interquartile_range": 3,
        "range": 5, "mean_absolute_deviation": 1.55223, "robust_mean_absolute_deviation": 1.11383,
        "median_absolute_deviation": 1.14865, "energy": 567, "root_mean_square": 2.76806,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-4)


def test_levels_of_the_phantom() -> None:
    region = phantom()
    levels = discretize(region.channels[0][region.mask], width=1.0)
    found = histogram_features(levels)
    assert found == pytest.approx({"entropy": 1.26561, "uniformity": 0.51242}, abs=1e-4)


def test_shape_of_the_phantom() -> None:
    found = shape_features(phantom())
    expected = {
        "volume_mm3": 556.333, "voxel_volume_mm3": 592, "surface_mm2": 388.0706,
        "surface_per_volume": 0.69755, "sphericity": 0.84294, "longest_3d_mm": 13.1149,
        "major_axis_mm": 11.4024, "minor_axis_mm": 9.3080, "least_axis_mm": 8.5360,
        "elongation": 0.81632, "flatness": 0.74861,
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4)


def phantom_levels() -> np.ndarray:
    region = phantom()
    return grid_of_levels(region, discretize(region.channels[0][region.mask], width=1.0))


def test_neighbors_in_the_phantom() -> None:
    found = cooccurrence_features(phantom_levels())
    assert {name: found[name] for name in MERGED} == pytest.approx(MERGED, abs=1e-4)
    assert {name: found[name] for name in MANUAL} == pytest.approx(MANUAL, rel=5e-3)


def test_neighbors_of_each_direction_in_the_phantom() -> None:
    # The IBSI also gives the mean over directions: it tells that none of them is another's.
    levels = phantom_levels()
    rows = [features_of(pairs_of(levels, step)) for step in DIRECTIONS]
    found = {name: float(np.mean([row[name] for row in rows])) for name in AVERAGED}
    assert found == pytest.approx(AVERAGED, abs=1e-4)
    summed = features_of(np.sum([pairs_of(levels, step) for step in DIRECTIONS], axis=0))
    assert cooccurrence_features(levels) == pytest.approx(summed)


def pairs_of(levels: np.ndarray, step: tuple[int, ...]) -> np.ndarray:
    """Count levels one step apart in either order, voxel by voxel."""
    counts = np.zeros((levels.max(), levels.max()))
    for place in np.argwhere(levels > 0):
        other = place + step
        if (other >= 0).all() and (other < levels.shape).all() and levels[tuple(other)] > 0:
            first, second = levels[tuple(place)] - 1, levels[tuple(other)] - 1
            counts[first, second] += 1
            counts[second, first] += 1
    return counts


def test_thirteen_directions_are_half_of_all_neighbors() -> None:
    opposite = {tuple(-part for part in step) for step in DIRECTIONS}
    assert len(DIRECTIONS) == 13
    assert len(opposite | set(DIRECTIONS)) == 26


def test_a_checkerboard_of_two_levels_has_a_known_matrix() -> None:
    found = features_of(np.array([[0.0, 3.0], [3.0, 0.0]]))
    assert found["contrast"] == 1.0
    assert found["correlation"] == -1.0
    assert found["joint_entropy"] == 1.0
    assert found["inverse_difference"] == 0.5


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7)])
def test_a_ball_has_the_size_of_a_ball(spacing_mm: tuple[float, float, float]) -> None:
    mask = ball(10.0, spacing_mm)
    found = shape_features(Region(mask[None].astype(float), mask, spacing_mm))
    assert found["volume_mm3"] == pytest.approx(4 / 3 * math.pi * 1000, rel=0.03)
    assert found["longest_3d_mm"] == pytest.approx(20, abs=max(spacing_mm) + 0.5)
    assert longest_axial_mm(mask, spacing_mm) == pytest.approx(20, abs=1.0)
    # Four standard deviations of a full ball are 4 / sqrt(5) radii.
    for name in ("major_axis_mm", "minor_axis_mm", "least_axis_mm"):
        assert found[name] == pytest.approx(40 / math.sqrt(5), rel=0.03)
    assert found["sphericity"] > 0.85


def test_one_voxel_has_finite_features() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    region = cut_region(np.full((1, 3, 3, 3), 7.0), mask, (1.0, 1.0, 1.0))
    found = region_features(region, AS_IT_IS)
    assert all(math.isfinite(value) for value in found.values())
    assert found["shape_voxel_volume_mm3"] == 1.0
    assert found["texture_joint_maximum"] == 1.0
    assert found["intensity_skewness"] == 0.0


def test_the_center_of_intensities_moves_towards_what_is_brighter() -> None:
    mask = np.ones((1, 1, 3), dtype=bool)
    channel = np.array([[[0.0, 0.0, 5.0]]])
    assert center_shift_mm(Region(channel[None], mask, (1.0, 1.0, 2.0)), channel) == 2.0


def test_resampling_keeps_centers_and_straight_lines() -> None:
    z, y, x = np.meshgrid(np.arange(8.0), np.arange(9.0), np.arange(10.0), indexing="ij")
    mask = np.zeros(z.shape, dtype=bool)
    mask[2:6, 2:7, 2:8] = True
    region = Region((3 * z + 2 * y + x)[None], mask, (2.0, 1.0, 1.0))
    made = resample_region(region, 1.0)
    assert made.mask.shape == (16, 9, 10)
    assert made.channels[0][made.mask].mean() == pytest.approx(region.channels[0][mask].mean())
    assert made.mask.sum() == 2 * mask.sum()
    inside = made.channels[0][4:12]
    assert np.allclose(np.diff(inside, axis=0), 1.5, atol=0.05)


def test_a_mask_too_thin_for_the_grid_stays_on_its_own() -> None:
    mask = np.zeros((1, 12, 12), dtype=bool)
    mask[0, 6, 2:9] = True
    options = AS_IT_IS.model_copy(update={"spacing_mm": 4.0})
    region = prepare_region(np.ones((1, 1, 12, 12)), mask, (1.0, 0.5, 0.5), options)
    assert region.mask.sum() == 7
    assert region.spacing_mm == (1.0, 0.5, 0.5)


def test_levels_start_at_the_smallest_value_and_stay_few() -> None:
    assert discretize(np.array([-3.0, -2.1, 22.0]), width=25.0).tolist() == [1, 1, 2]
    assert discretize(np.array([0.0, 1e9]), width=25.0).max() <= 1024


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.1, 50),
    shift=st.floats(-500, 500),
)
def test_a_z_score_forgets_scale_and_offset(seed: int, gain: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, 6, 7, 8))
    mask = rng.random((6, 7, 8)) > 0.5
    mask[2, 2, 2] = True
    channels = (ChannelFeatures(scale=ZScoreScale(), bin_width=5.0),)
    options = RadiomicsOptions(spacing_mm=1.0, channels=channels)

    def intensities(values: np.ndarray) -> np.ndarray:
        region = prepare_region(values, mask, (1.0, 1.0, 1.0), options)
        return np.asarray(region.channels)

    assert np.allclose(intensities(image), intensities(gain * image + shift), atol=1e-6)


def test_mirroring_and_turning_change_no_feature() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.normal(0, 3, (1, 6, 6, 6)), rng.random((6, 6, 6)) > 0.4
    plain = region_features(Region(values, mask, (1.0, 1.0, 1.0)), AS_IT_IS)
    turned = region_features(
        Region(
            np.ascontiguousarray(np.rot90(values, axes=(2, 3))[:, ::-1]),
            np.ascontiguousarray(np.rot90(mask, axes=(1, 2))[::-1]),
            (1.0, 1.0, 1.0),
        ),
        AS_IT_IS,
    )
    assert turned == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_a_feature_that_a_reading_leaves_undefined_agrees_with_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3, 2))
    values[4, 1, 1] = np.nan
    assert agreement(values)[1] == 0
    assert np.isfinite(agreement(values)).all()


def test_intensities_of_two_voxels_are_defined() -> None:
    found = intensity_features(np.array([1.0, 5.0]))
    assert found["robust_mean_absolute_deviation"] == found["mean_absolute_deviation"] == 2


def test_agreement_is_that_of_the_published_example() -> None:
    # Shrout & Fleiss (1979), table 2: six targets, four judges; ICC(2,1) = 0.29.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    values = np.array(ratings, dtype=float)[:, :, None]
    assert agreement(values)[0] == pytest.approx(0.2898, abs=1e-4)
    assert agreement(np.ones((3, 2, 1)))[0] == 1.0


USUAL = {"shift_voxels": 0.75, "smoothness_voxels": 2.0}


def test_contours_are_shifted_as_far_and_as_smoothly_as_was_decided() -> None:
    mask = np.pad(ball(6.0, (1.0, 1.0, 1.0)), 3)
    region = Region(mask[None].astype(float), mask, (1.0, 1.0, 1.0))

    def moved(shift: float, smoothness: float) -> tuple[int, int]:
        """Return how many voxels differ, and how many pieces they form."""
        *_, made = perturbed_regions(
            region, jitters=1, shift_voxels=shift, smoothness_voxels=smoothness, seed=1
        )
        differing = made.mask ^ mask
        return int(differing.sum()), int(ndimage.label(differing)[1])

    usual, pieces = moved(0.75, 2.0)
    assert moved(0.0, 2.0) == (0, 0)
    assert moved(1.5, 2.0)[0] > 1.5 * usual
    assert moved(0.75, 0.5)[1] > 2 * pieces


def test_perturbed_contours_stay_near_the_region() -> None:
    mask = np.pad(ball(6.0, (1.0, 1.0, 1.0)), 3)
    region = Region(mask[None].astype(float), mask, (1.0, 1.0, 1.0))
    eroded, dilated, *jittered = perturbed_regions(region, jitters=3, **USUAL, seed=1)
    assert eroded.mask.sum() < mask.sum() < dilated.mask.sum()
    assert len({made.mask.tobytes() for made in jittered}) == 3
    for made in jittered:
        overlap = 2 * (made.mask & mask).sum() / (made.mask.sum() + mask.sum())
        assert 0.75 < overlap < 1


def test_a_picture_is_eroded_within_its_plane_and_nothing_at_the_edge_of_the_image() -> None:
    mask = np.zeros((1, 9, 9), dtype=bool)
    mask[0, 2:7, :4] = True  # touches the left edge
    region = Region(mask[None].astype(float), mask, (1.0, 1.0, 1.0))
    eroded = perturbed_regions(region, jitters=0, **USUAL, seed=0)[0].mask
    expected = np.zeros_like(mask)
    expected[0, 3:6, :3] = True
    assert np.array_equal(eroded, expected)
    slab = np.repeat(mask, 3, axis=0)  # of a volume that ends with it above and below
    region = Region(slab[None].astype(float), slab, (1.0, 1.0, 1.0))
    eroded = perturbed_regions(region, jitters=0, **USUAL, seed=0)[0].mask
    assert np.array_equal(eroded, np.repeat(expected, 3, axis=0))


def test_the_longest_distance_is_that_of_all_pairs() -> None:
    points = np.random.default_rng(0).normal(size=(900, 3))
    every = np.linalg.norm(points[:, None] - points[None], axis=-1).max()
    assert longest_distance(points) == pytest.approx(every)
    line = np.stack([np.arange(400.0), np.zeros(400), np.zeros(400)], axis=1)
    assert longest_distance(line) == 399.0
