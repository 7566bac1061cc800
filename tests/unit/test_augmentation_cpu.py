from __future__ import annotations

import numpy as np
import pytest
from batchgenerators.augmentations.color_augmentations import augment_gamma
from batchgenerators.augmentations.utils import (
    create_zero_centered_coordinate_mesh,
    interpolate_img,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from selfseg.augmentation.cpu import ImageArray, LabelArray, apply_cpu
from selfseg.augmentation.draw import Hidden, SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch, sampling_matrix
from selfseg.records.augmentation import Augmentation

ROTATED = SampleDraw(angles=(0.3, -0.4, 0.5), scale=1.2)


def sample(
    shape: tuple[int, ...], *, channels: int = 2, labels: int = 4, lowest: int = 0
) -> tuple[ImageArray, LabelArray]:
    """Return a random image and a label map of smooth blobs."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    ranks = smooth.argsort(axis=None).argsort().reshape(shape) / smooth.size
    return image, (lowest + ranks * (labels - lowest)).astype(np.int16)


def test_nothing_drawn_changes_nothing_and_arguments_stay() -> None:
    image, label = sample((6, 7, 8), lowest=-1)
    before = image.copy(), label.copy()
    got, target = apply_cpu(image, label, SampleDraw(), (6, 7, 8))
    assert np.array_equal(got, image)
    assert np.array_equal(target, np.maximum(label, 0))
    everything = SampleDraw(
        noise_std=0.1, brightness=(1.2, 0.8), contrast=(0.8, 1.2), gamma=(0.8, 1.2),
        gamma_inverted=(1.3, 0.7), blur=((0.6, 0.7, 0.8), None), low_resolution=(None, 0.6),
        mirror=(0, 2),
    )  # fmt: skip
    apply_cpu(image, label, everything, (6, 7, 8), masked=(0, 1))
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])


def test_a_larger_patch_is_cut_in_the_center() -> None:
    image, label = sample((9, 10, 11))
    got, target = apply_cpu(image, label, SampleDraw(), (5, 6, 7))
    assert np.array_equal(got, image[:, 2:7, 2:8, 2:9])
    assert np.array_equal(target, label[2:7, 2:8, 2:9])


def test_image_agrees_with_batchgenerators_interpolation() -> None:
    patch = (10, 12, 9)
    image, label = sample(loaded_patch(ROTATED, patch))
    got, _ = apply_cpu(image, label, ROTATED, patch)
    mesh = create_zero_centered_coordinate_mesh(patch)
    coordinates = np.einsum("ab,b...->a...", sampling_matrix(ROTATED, 3), mesh)
    coordinates += ((np.array(label.shape) - 1) / 2)[:, None, None, None]
    for channel in range(2):
        expected = interpolate_img(image[channel], coordinates, 1, "nearest")
        assert got[channel] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("draw", "patch"),
    [
        (ROTATED, (10, 12, 9)),
        (SampleDraw(angles=(0.7,), scale=0.8), (21, 16)),
        (SampleDraw(angles=(0.7,), scale=1.3, dummy_2d=True), (5, 21, 16)),
    ],
)
def test_label_is_the_argmax_of_linear_one_hot_maps(
    draw: SampleDraw, patch: tuple[int, ...]
) -> None:
    image, label = sample(loaded_patch(draw, patch), lowest=-1)
    _, got = apply_cpu(image, label, draw, patch)
    matrix = sampling_matrix(draw, len(patch))
    offset = (np.array(label.shape) - 1) / 2 - matrix @ ((np.array(patch) - 1) / 2)
    values = np.unique(label)
    maps = [
        ndimage.affine_transform(
            (label == value).astype(float), matrix, offset, patch, order=1, mode="grid-constant"
        )
        for value in values
    ]
    ordered = np.sort(maps, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-3
    expected = np.maximum(values[np.argmax(maps, axis=0)], 0)
    assert clear.mean() > 0.95
    assert np.array_equal(got[clear], expected[clear])


def test_ties_go_to_the_lower_label() -> None:
    label = np.array([[3, 3, 3], [1, 1, 1], [1, 1, 1], [3, 3, 3]], np.int16)
    # A scale of 2 / 3 about the center reads rows 0.5, 1.17, 1.83 and 2.5.
    draw = SampleDraw(scale=2 / 3)
    _, got = apply_cpu(np.zeros((1, 4, 3), np.float32), label, draw, (4, 3))
    assert got.tolist() == [[1, 1, 1]] * 4


def test_outside_is_zero_and_background() -> None:
    image, label = np.ones((1, 8, 8), np.float32), np.full((8, 8), 2, np.int16)
    got, target = apply_cpu(image, label, SampleDraw(scale=2.0), (8, 8), masked=(0,))
    assert got[0, 0].tolist() == [0] * 8
    assert got[0, 3:5, 3:5].tolist() == [[1, 1], [1, 1]]
    assert target[0].tolist() == [0] * 8
    assert target[3:5, 3:5].tolist() == [[2, 2], [2, 2]]


@given(st.integers(0, 2**32), st.integers(2, 3))
@settings(deadline=None, max_examples=30)
def test_image_and_label_stay_aligned_and_no_label_appears(seed: int, dims: int) -> None:
    options = Augmentation(
        rotation_p=0.7, scaling_p=0.7, noise_p=0, blur_p=0, brightness_p=0, contrast_p=0,
        low_resolution_p=0, gamma_inverted_p=0, gamma_p=0, mirror_axes=tuple(range(dims)),
    )  # fmt: skip
    patch = (14, 12, 13)[:dims]
    draw = draw_sample(options, channels=1, patch=patch, rng=np.random.default_rng(seed))
    _, label = sample(loaded_patch(draw, patch), labels=2)
    label *= 5  # labels 0 and 5
    got, target = apply_cpu(label[None].astype(np.float32), label, draw, patch)
    assert set(np.unique(target)) <= {0, 5}
    clear = np.abs(got[0] - 2.5) > 0.01
    assert np.array_equal(target[clear] > 0, got[0][clear] > 2.5)


def test_noise_has_the_drawn_deviation_and_seed() -> None:
    image, label = np.zeros((2, 40, 40, 40), np.float32), np.zeros((40, 40, 40), np.int16)
    first, _ = apply_cpu(image, label, SampleDraw(noise_std=0.07, noise_seed=1), (40, 40, 40))
    again, _ = apply_cpu(image, label, SampleDraw(noise_std=0.07, noise_seed=1), (40, 40, 40))
    other, _ = apply_cpu(image, label, SampleDraw(noise_std=0.07, noise_seed=2), (40, 40, 40))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() == pytest.approx(0.07, rel=0.01)
    assert abs(first.mean()) < 1e-3
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.02


def test_blur_is_scipys_with_mirrored_borders() -> None:
    image, label = sample((12, 11, 10))
    draw = SampleDraw(blur=(None, (0.6, 0.8, 1.0)))
    got, _ = apply_cpu(image, label, draw, (12, 11, 10))
    assert np.array_equal(got[0], image[0])
    expected = image[1].astype(float)
    for axis, (sigma, radius) in enumerate([(0.6, 2), (0.8, 2), (1.0, 3)]):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=radius)
    assert got[1] == pytest.approx(expected, abs=1e-5)


def test_brightness_and_contrast() -> None:
    image, label = sample((8, 8, 8))
    bright, _ = apply_cpu(image, label, SampleDraw(brightness=(0.8, 1.2)), (8, 8, 8))
    assert bright[0] == pytest.approx(0.8 * image[0])
    assert bright[1] == pytest.approx(1.2 * image[1])
    changed, _ = apply_cpu(image, label, SampleDraw(contrast=(0.8, 1.25)), (8, 8, 8))
    for channel, factor in enumerate((0.8, 1.25)):
        values = image[channel]
        expected = (values - values.mean()) * factor + values.mean()
        assert changed[channel] == pytest.approx(
            expected.clip(values.min(), values.max()), abs=1e-5
        )


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_agrees_with_batchgenerators(inverted: bool) -> None:
    image, label = sample((10, 10, 10))
    draw = SampleDraw(gamma_inverted=(1.4, 1.4)) if inverted else SampleDraw(gamma=(1.4, 1.4))
    got, _ = apply_cpu(image, label, draw, (10, 10, 10))
    expected = augment_gamma(
        image.copy(), (1.4, 1.4), inverted, per_channel=True, retain_stats=True
    )
    assert got == pytest.approx(expected, abs=1e-4)
    assert got.mean((1, 2, 3)) == pytest.approx(image.mean((1, 2, 3)), abs=1e-5)
    assert got.std((1, 2, 3)) == pytest.approx(image.std((1, 2, 3)), rel=1e-4)


def test_constant_channels_survive_everything() -> None:
    image, label = np.full((1, 6, 6, 6), 3.0, np.float32), np.zeros((6, 6, 6), np.int16)
    draw = SampleDraw(
        contrast=(1.2,), gamma=(0.7,), gamma_inverted=(1.5,), blur=((0.5, 0.7, 1.0),),
        low_resolution=(0.5,),
    )  # fmt: skip
    got, _ = apply_cpu(image, label, draw, (6, 6, 6))
    assert got == pytest.approx(image, abs=1e-5)


def test_low_resolution_keeps_the_first_axis_in_dummy_2d() -> None:
    image, label = sample((7, 12, 12))
    image[:] = np.arange(7, dtype=np.float32)[:, None, None]
    draw = SampleDraw(low_resolution=(0.5, None), dummy_2d=True)
    got, _ = apply_cpu(image, label, draw, (7, 12, 12))
    assert got == pytest.approx(image, abs=1e-6)
    both, _ = apply_cpu(image, label, SampleDraw(low_resolution=(0.5, None)), (7, 12, 12))
    assert not np.allclose(both[0], image[0])
    assert np.array_equal(both[1], image[1])


def test_mirror_flips_image_and_label() -> None:
    image, label = sample((5, 6, 7))
    got, target = apply_cpu(image, label, SampleDraw(mirror=(0, 2)), (5, 6, 7))
    assert np.array_equal(got, image[:, ::-1, :, ::-1])
    assert np.array_equal(target, label[::-1, :, ::-1])


def test_masked_channels_are_zero_outside_the_mask() -> None:
    image, label = sample((6, 6, 6), lowest=-1)
    got, target = apply_cpu(image, label, SampleDraw(mirror=(1,)), (6, 6, 6), masked=(1,))
    outside = label[:, ::-1] < 0
    assert outside.any()
    assert (got[1][outside] == 0).all()
    assert np.array_equal(got[1][~outside], image[1][:, ::-1][~outside])
    assert np.array_equal(got[0], image[0][:, ::-1])
    assert target.min() == 0


def test_a_hidden_slab_shows_another_place_and_keeps_its_label() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(size=(2, 9, 10, 11)).astype(np.float32)
    label = rng.integers(0, 3, size=(9, 10, 11)).astype(np.int16)
    draw = SampleDraw(hidden=Hidden((0.0, 1.0, 0.0), 1.0, 1.6, (3, 4, 5)))

    got, target = apply_cpu(image, label, draw, (9, 10, 11))

    slab = slice(4, 8)  # voxels 4, 5, 6, 7 are within 1.6 of 4.5 + 1.0
    elsewhere = np.roll(image, (3, 4, 5), (1, 2, 3))
    assert np.array_equal(got[:, :, slab], elsewhere[:, :, slab])
    assert np.array_equal(got[:, :, :4], image[:, :, :4])
    assert np.array_equal(got[:, :, 8:], image[:, :, 8:])
    assert np.array_equal(target, label)
