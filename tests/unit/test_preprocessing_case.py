"""One case: transposed, cropped, normalized, resampled; what is outside, where the labels are."""

from __future__ import annotations

import nnunetroute
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import nested, plain

from selfseg.errors import DatasetError
from selfseg.io.images import Image
from selfseg.preprocessing.case import (
    MOST_LOCATIONS,
    find_annotated,
    find_locations,
    prepare_case,
)
from selfseg.records.geometry import Box, Geometry, Orientation
from selfseg.records.preprocessing import NoNormalization, Normalization, Preprocessing, ZScore
from selfseg.records.serial import Shape3, Triple

EQUAL = (1.0, 1.0, 1.0)


def make_image(array: np.ndarray, spacing_mm: Triple = EQUAL, *, is_2d: bool = False) -> Image:
    _, z, y, x = array.shape
    grid = Geometry(shape=(z, y, x), spacing_mm=spacing_mm, is_2d=is_2d)
    return Image(array.astype(np.float32), grid, grid, Orientation())


def options(
    *normalization: Normalization,
    spacing_mm: tuple[float | None, float, float] = EQUAL,
    axes: Shape3 = (0, 1, 2),
) -> Preprocessing:
    return Preprocessing(
        axes=axes, spacing_mm=spacing_mm, normalization=normalization or (NoNormalization(),)
    )


def hollow() -> np.ndarray:
    """A box 2:8 x 3:10 x 4:12 of ones in zeros, hollow, and open at one corner below the shell."""
    array = np.zeros((1, 10, 12, 14))
    array[0, 2:8, 3:10, 4:12] = 1
    array[0, 3:7, 4:9, 5:11] = 0  # a hole: filled
    array[0, 2, 3, 4] = 0  # joined to the outside
    return array


def test_crop_fills_holes_and_marks_what_is_outside() -> None:
    reference = np.zeros((10, 12, 14), np.int16)
    reference[4, 5, 6] = 2
    reference[0, 0, 0] = 1  # cropped away
    prepared = prepare_case("a", make_image(hollow()), reference, options(), targets=plain(2))
    assert prepared.record.crop == Box(lower=(2, 3, 4), upper=(8, 10, 12))
    assert prepared.record.shape_before_crop == (10, 12, 14)
    assert prepared.record.shape == (6, 7, 8)
    np.testing.assert_array_equal(prepared.image, hollow()[:, 2:8, 3:10, 4:12])
    expected = np.zeros((6, 7, 8), np.int16)
    expected[0, 0, 0] = -1
    expected[2, 2, 2] = 2
    assert prepared.label is not None
    np.testing.assert_array_equal(prepared.label, expected)
    assert prepared.record.num_locations == (0, 1)
    assert [rows.tolist() for rows in prepared.locations] == [[], [[2, 2, 2]]]
    assert prepared.label.dtype == np.int16
    assert prepared.image.dtype == np.float32


def test_any_channel_makes_a_voxel_nonzero() -> None:
    array = np.zeros((2, 4, 5, 6))
    array[0, 1, 2, 3] = 5
    array[1, 2, 3, 3] = -5
    prepared = prepare_case("a", make_image(array), None, options(*[NoNormalization()] * 2))
    assert prepared.record.crop == Box(lower=(1, 2, 3), upper=(3, 4, 4))
    assert prepared.image.shape == (2, 2, 2, 1)
    assert prepared.label is None
    assert prepared.locations == ()
    assert prepared.record.num_locations == ()


def test_an_image_of_zeros_stays_whole() -> None:
    reference = np.zeros((3, 4, 5), np.int16)
    reference[1, 2, 3] = 1
    image = make_image(np.zeros((1, 3, 4, 5)))
    prepared = prepare_case("a", image, reference, options(ZScore()), targets=plain(1))
    assert prepared.record.crop.shape == (3, 4, 5)
    assert prepared.label is not None
    np.testing.assert_array_equal(prepared.label, reference)
    assert not prepared.image.any()


def test_nothing_that_was_given_is_changed() -> None:
    image, reference = make_image(hollow()), np.zeros((10, 12, 14), np.int16)
    before = image.array.copy()
    prepared = prepare_case("a", image, reference, options(ZScore()), targets=plain(1))
    np.testing.assert_array_equal(image.array, before)
    assert not reference.any()
    assert not np.shares_memory(prepared.image, image.array)


def test_single_slices_are_resampled_in_their_plane() -> None:
    array = np.random.default_rng(0).random((3, 1, 20, 30)) + 1
    image = make_image(array, (1.0, 2.0, 0.5), is_2d=True)
    planned = options(*[NoNormalization()] * 3, spacing_mm=(None, 1.0, 1.0))
    prepared = prepare_case("a", image, None, planned)
    assert prepared.image.shape == (3, 1, 40, 15)
    for channel, result in zip(image.array, prepared.image, strict=True):
        expected = nnunetroute.resize_image(channel[0], (40, 15), 3)
        np.testing.assert_allclose(result[0], expected, atol=2e-5)


@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.8), (1.0, 0.9, 0.8)])
def test_slices_of_a_2d_plan_keep_the_case_s_own_spacing(spacing: Triple) -> None:
    array = np.random.default_rng(0).random((1, 7, 20, 30)) + 1
    prepared = prepare_case("a", make_image(array, spacing), None, options(spacing_mm=(None, 1, 1)))
    assert prepared.record.spacing_mm == (spacing[0], 1.0, 1.0)
    assert prepared.image.shape == (1, 7, round(20 * spacing[1]), 24)


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_axes_are_permuted_before_anything_else(axes: Shape3) -> None:
    rng = np.random.default_rng(0)
    array = hollow() * (1 + rng.random((1, 10, 12, 14)))
    reference = rng.integers(0, 3, (10, 12, 14)).astype(np.int16)
    spacing = (1.2, 0.7, 4.0)
    planned = options(ZScore(inside_mask=True), spacing_mm=(3.0, 0.9, 1.0), axes=axes)
    result = prepare_case("a", make_image(array, spacing), reference, planned, targets=plain(2))
    z, y, x = (spacing[axis] for axis in axes)
    turned = make_image(array.transpose(0, *(axis + 1 for axis in axes)), (z, y, x))
    straight = planned.model_copy(update={"axes": (0, 1, 2)})
    expected = prepare_case("a", turned, reference.transpose(axes), straight, targets=plain(2))
    np.testing.assert_array_equal(result.image, expected.image)
    assert result.label is not None
    assert expected.label is not None
    np.testing.assert_array_equal(result.label, expected.label)
    same = {"axes": axes, "native": result.record.native}
    assert result.record == expected.record.model_copy(update=same)
    assert result.image.flags.c_contiguous
    assert result.label.flags.c_contiguous


def test_z_score_inside_the_mask_counts_foreground_outside_it() -> None:
    array = np.zeros((1, 4, 6, 6))
    array[0, :, 1:5, 1:5] = np.random.default_rng(0).random((4, 4, 4)) + 1
    array[0, 0, 1, 1] = 0  # joined to the outside
    array[0, 0, 2, 1] = 0
    reference = np.zeros((4, 6, 6), np.int16)
    reference[0, 1, 1] = 1
    inside = array[0] != 0
    inside[0, 1, 1] = True
    values = array[0].astype(np.float32)
    expected = np.where(inside, (values - values[inside].mean()) / values[inside].std(), 0)
    masked = options(ZScore(inside_mask=True))
    prepared = prepare_case("a", make_image(array), reference, masked, targets=plain(1))
    np.testing.assert_allclose(prepared.image[0], expected[:, 1:5, 1:5], atol=1e-5)
    assert prepared.label is not None
    assert prepared.label[0, :2, 0].tolist() == [1, -1]


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(2, 14), st.integers(2, 14)),
    spacing=st.sampled_from([EQUAL, (5.0, 1.0, 1.1), (0.7, 0.8, 2.5), (1.0, 4.0, 1.0)]),
    seed=st.integers(0, 100),
)
def test_whole_route_equals_the_slow_one(shape: Shape3, spacing: Triple, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(2, *shape)) + 0.5
    reference = (rng.random(shape) < 0.5) * rng.integers(0, 4, shape)
    planned = options(ZScore(), NoNormalization(), spacing_mm=(1.3, 1.1, 0.9))
    result = prepare_case("a", make_image(array, spacing), reference, planned, targets=plain(3))
    new = result.record.shape
    assert new == tuple(
        max(round(n * old / to), 1)
        for n, old, to in zip(shape, spacing, (1.3, 1.1, 0.9), strict=True)
    )
    axis = int(np.argmax(spacing)) if max(spacing) / min(spacing) > 3 else None
    first, second = array.astype(np.float32).astype(np.float64)
    first = (first - first.mean()) / max(first.std(), 1e-8)
    for channel, got in zip((first, second), result.image, strict=True):
        expected = nnunetroute.resample(channel, new, axis, 3)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(channel).max() + 1e-6)
    assert result.label is not None
    labels = nnunetroute.resample(reference.astype(np.int16), new, axis, 1, labels=True)
    np.testing.assert_array_equal(result.label, labels)


def test_locations_are_a_fair_share_of_each_label() -> None:
    label = np.zeros((120, 120, 120), np.int16)
    label[:, :, :100] = 1  # 1.44 million: one in a hundred
    label[:, :, 100:102] = 3  # 28 800: the most that are kept
    label[5, 6, 110:117] = 4  # all
    label[0, 0, 119] = -1
    found = find_locations(label, plain(5).members)
    assert [len(rows) for rows in found] == [14_400, 0, MOST_LOCATIONS, 7, 0]
    for value, rows in enumerate(found, start=1):
        assert rows.dtype == np.int32
        assert rows.shape[1:] == (3,)
        assert (label[tuple(rows.T)] == value).all()
        assert len(np.unique(rows, axis=0)) == len(rows)
    assert abs(found[0].mean() - 56) < 2  # from everywhere in the label


def test_locations_are_those_of_one_seed_for_all_labels() -> None:
    label = np.random.default_rng(0).integers(-1, 4, (40, 50, 60)).astype(np.int16)
    random = np.random.RandomState(1234)
    for value, rows in enumerate(find_locations(label, plain(3).members), start=1):
        voxels = np.argwhere(label == value)
        chosen = voxels[random.choice(len(voxels), MOST_LOCATIONS, replace=False)]
        np.testing.assert_array_equal(rows, chosen)


def test_what_does_not_fit_is_refused() -> None:
    image = make_image(np.ones((2, 3, 4, 5)))
    with pytest.raises(DatasetError, match="case_7: 2 channels where the plan has 1") as caught:
        prepare_case("case_7", image, None, options())
    assert caught.value.remedy
    one = make_image(np.ones((1, 3, 4, 5)))
    with pytest.raises(DatasetError, match="case_7: the reference has shape"):
        prepare_case("case_7", one, np.zeros((3, 4, 6), np.int16), options(), targets=plain(1))


def test_what_is_not_annotated_stays_so_and_counts_as_outside() -> None:
    reference = np.full((10, 12, 14), 3, np.int16)
    reference[4] = 0
    reference[4, 5:7, 6:8] = 2
    targets = plain(2, ignore=9)
    masked = options(ZScore(inside_mask=True))
    prepared = prepare_case("a", make_image(hollow()), reference, masked, targets=targets)
    bare = prepare_case("a", make_image(hollow()), None, masked)
    np.testing.assert_array_equal(prepared.image, bare.image)  # as an image to predict
    assert prepared.label is not None
    np.testing.assert_array_equal(prepared.label, reference[2:8, 3:10, 4:12])
    assert prepared.record.num_locations == (0, 4)
    assert prepared.record.num_annotated == len(prepared.annotated) == 7 * 8
    assert (prepared.annotated[:, 0] == 2).all()
    assert len(np.unique(prepared.annotated, axis=0)) == 7 * 8


def test_resampling_keeps_the_border_of_the_annotation() -> None:
    reference = np.full((12, 12, 12), 2, np.int16)
    reference[:6] = 0
    reference[2:4, 2:10, 2:10] = 1
    image = make_image(np.random.default_rng(0).random((1, 12, 12, 12)) + 1)
    doubled = options(spacing_mm=(0.5, 0.5, 0.5))
    targets = plain(1, ignore=7)
    label = prepare_case("a", image, reference, doubled, targets=targets).label
    assert label is not None
    assert (label[12:] == 2).all()
    assert not (label[:12] == 2).any()
    whole = prepare_case("a", image, reference % 2, doubled, targets=plain(1)).label
    assert whole is not None
    np.testing.assert_array_equal(label[:11], whole[:11])


def test_locations_of_regions_are_those_of_all_their_labels() -> None:
    label = np.random.default_rng(0).integers(-1, 5, (9, 10, 11)).astype(np.int16)
    targets = nested(ignore=9)
    found = find_locations(label, targets.members)
    for rows, members in zip(found, targets.members, strict=True):
        expected = np.argwhere(np.isin(label, members))
        np.testing.assert_array_equal(np.unique(rows, axis=0), expected)
        assert len(rows) == len(expected)
    annotated = find_annotated(label, targets)
    np.testing.assert_array_equal(np.unique(annotated, axis=0), np.argwhere(label != 4))
