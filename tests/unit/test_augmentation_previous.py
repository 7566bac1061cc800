"""The previous stage's segmentation in training: against scikit-image and scipy, and its draws."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import ball

from selfseg.augmentation.cpu import apply_cpu
from selfseg.augmentation.draw import Morphology, Operation, Removal, SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.augmentation.previous import apply_previous, within
from selfseg.records.augmentation import Augmentation

SHAPE = (14, 17, 20)
OPERATIONS: dict[Operation, object] = {
    "dilate": ndimage.binary_dilation,
    "erode": ndimage.binary_erosion,
    "open": ndimage.binary_opening,
    "close": ndimage.binary_closing,
}


def blobs(seed: int, labels: int = 3, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return labels 0 to `labels` in irregular blobs that touch each other and the border."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((labels + 1, *shape)), (0, *[1.5] * 3))
    label: np.ndarray = smooth.argmax(axis=0).astype(np.int16)
    return label


@pytest.mark.parametrize("radius", [1, 2, 5, 8, 13])
def test_within_is_the_distance_transform(radius: int) -> None:
    mask = np.random.default_rng(radius).random(SHAPE) < 0.004
    expected = ndimage.distance_transform_edt(~mask) <= radius
    assert np.array_equal(within(mask, radius), expected)


@pytest.mark.parametrize("operation", list(OPERATIONS))
@pytest.mark.parametrize("radius", [1, 3])
def test_operations_are_those_with_a_ball(operation: Operation, radius: int) -> None:
    """Away from the border, where libraries differ about what lies outside."""
    label = np.pad(blobs(radius, 1, (8, 9, 10)), 9)
    expected = OPERATIONS[operation](label == 1, ball(radius))  # type: ignore[operator]
    draw = SampleDraw(morphology=(Morphology(1, operation, radius),))
    assert np.array_equal(apply_previous(label, draw, label.shape) == 1, expected)


def test_an_erosion_does_not_eat_from_the_border_of_the_patch() -> None:
    label = np.ones(SHAPE, np.int16)
    label[0, 0, 0] = 0
    changed = apply_previous(label, SampleDraw(morphology=(Morphology(1, "erode", 2),)), SHAPE)
    assert changed[-1].all()
    assert not changed[0, 0, :3].any()
    assert changed[0, 0, 3:].all()


def test_a_growing_label_takes_voxels_from_others_and_a_shrinking_one_leaves_background() -> None:
    label = np.zeros((1, 1, 12), np.int16)
    label[..., 2:5], label[..., 5:9] = 1, 2
    grown = apply_previous(label, SampleDraw(morphology=(Morphology(1, "dilate", 2),)), label.shape)
    assert grown.ravel().tolist() == [1] * 7 + [2, 2, 0, 0, 0]
    shrunk = apply_previous(label, SampleDraw(morphology=(Morphology(2, "erode", 1),)), label.shape)
    assert shrunk.ravel().tolist() == [0, 0, 1, 1, 1, 0, 2, 2, 0, 0, 0, 0]
    assert label.ravel().tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]


def test_only_small_components_are_deleted_and_each_can_be() -> None:
    label = np.zeros((10, 10, 10), np.int16)
    label[:6, :6, :6] = 1  # 216 voxels: more than 15 % of the patch
    label[7, 7, 7], label[8, 8, 8] = 1, 1  # one component: they touch at a corner
    label[9, 0, 0] = 1
    label[0, 9, 9] = 2
    seen = set()
    for choice in np.linspace(0, 0.999, 10):
        draw = SampleDraw(removals=(Removal(1, float(choice), 0.15),))
        seen.add(tuple(np.flatnonzero(apply_previous(label, draw, label.shape) != label)))
    assert seen == {(777, 888), (900,)}


def test_absent_labels_change_nothing() -> None:
    label = np.zeros(SHAPE, np.int16)
    changes = (Morphology(1, "dilate", 8), Morphology(2, "close", 3))
    draw = SampleDraw(morphology=changes, removals=(Removal(1, 0.5, 0.15),))
    assert not apply_previous(label, draw, SHAPE).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_draw_keeps_shape_type_and_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = Augmentation(
        mirror_axes=(0, 1, 2), previous_morphology_p=1.0, previous_removal_p=1.0, rotation_p=0.5
    )
    draw = draw_sample(options, channels=1, patch=(8, 9, 10), rng=rng, previous_labels=3)
    label = blobs(seed, 3, loaded_patch(draw, (8, 9, 10)))
    before = label.copy()
    result = apply_previous(label, draw, (8, 9, 10))
    assert result.shape == (8, 9, 10)
    assert result.dtype == np.int16
    assert set(np.unique(result)) <= {0, 1, 2, 3}
    assert np.array_equal(label, before)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), is_flat=st.booleans())
def test_it_moves_with_the_label(seed: int, is_flat: bool) -> None:
    options = Augmentation(mirror_axes=(0, 1, 2), rotation_p=0.7, scaling_p=0.7, dummy_2d=is_flat)
    draw = draw_sample(options, channels=1, patch=(8, 9, 10), rng=np.random.default_rng(seed))
    label = blobs(seed, 3, loaded_patch(draw, (8, 9, 10)))
    image = np.zeros((1, *label.shape), np.float32)
    _, moved = apply_cpu(image, label, draw, (8, 9, 10))
    assert np.array_equal(apply_previous(label, draw, (8, 9, 10)), moved)


def test_without_a_previous_stage_the_stream_is_as_before() -> None:
    plain, cascade = np.random.default_rng(3), np.random.default_rng(3)
    options = Augmentation(previous_morphology_p=1.0, previous_removal_p=1.0)
    first = draw_sample(options, channels=2, patch=(8, 8, 8), rng=plain)
    second = draw_sample(options, channels=2, patch=(8, 8, 8), rng=cascade, previous_labels=4)
    assert (first.morphology, first.removals) == ((), ())
    assert first.noise_seed == second.noise_seed
    assert first.gamma == second.gamma
    assert plain.random() != cascade.random()


def test_draws_follow_the_chances_and_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = [
        draw_sample(Augmentation(), channels=1, patch=(8, 8, 8), rng=rng, previous_labels=3)
        for _ in range(4000)
    ]
    changes = [change for draw in draws for change in draw.morphology]
    removals = [removal for draw in draws for removal in draw.removals]
    assert len(changes) == pytest.approx(4000 * 0.4 * 0.5 * 3, rel=0.05)
    assert len(removals) == pytest.approx(4000 * 0.2 * 0.5 * 3, rel=0.08)
    assert {change.radius for change in changes} == set(range(1, 9))
    assert {change.operation for change in changes} == set(OPERATIONS)
    assert {change.label for change in changes} == {1, 2, 3}
    orders = {tuple(change.label for change in draw.morphology) for draw in draws}
    assert {(1, 2, 3), (3, 1, 2), (2, 1)} <= orders
    assert all(removal.below_share == 0.15 for removal in removals)


def test_the_largest_ball_is_many_times_faster_than_a_distance_transform() -> None:
    mask = np.zeros((64, 64, 64), bool)
    mask[8:56, 8:56, 8:56] = True
    draw = SampleDraw(morphology=(Morphology(1, "dilate", 8),))
    label = mask.astype(np.int16)
    ours = min(_seconds(lambda: apply_previous(label, draw, label.shape)) for _ in range(5))
    scipys = min(_seconds(lambda: ndimage.distance_transform_edt(~mask)) for _ in range(5))
    assert ours < scipys


def _seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started
