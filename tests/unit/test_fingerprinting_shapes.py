"""Shape facts: bodies whose facts are known in closed form, real labels, and what cannot be."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from realdata import data_root
from scipy.spatial import KDTree
from selfseg.planners.shapes import is_compact, is_tubular

from selfseg.fingerprinting.labels import measure_labels, summarize_label
from selfseg.fingerprinting.occupancy import REACH, mean_pairwise_dice, unpack_occupancy
from selfseg.fingerprinting.shapes import measure_shape
from selfseg.fingerprinting.surfaces import measure_contrast
from selfseg.fingerprinting.tubes import coarsen
from selfseg.io.formats import read_dataset
from selfseg.io.images import read_label_map
from selfseg.records.geometry import Box
from selfseg.records.serial import Triple
from selfseg.records.shapes import ShapeFacts, ShapeSummary

ISOTROPIC = (1.0, 1.0, 1.0)


def grid(shape: tuple[int, int, int], spacing: Triple = ISOTROPIC) -> list[np.ndarray]:
    """Return the places of voxels in mm, from the middle of the array."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def ball(radius: float, size: int) -> np.ndarray:
    z, y, x = grid((size, size, size))
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


def cylinder(radius: float, length: float, *, even: bool) -> np.ndarray:
    z, y, x = grid((22 + even, 22 + even, 70))
    return np.asarray((z**2 + y**2 <= radius**2) & (np.abs(x) <= length / 2))


def helix(radius: float) -> tuple[np.ndarray, float]:
    turn = np.linspace(0, 6 * np.pi, 3000)
    curve = np.stack([6 + 2 * turn, 24 + 15 * np.cos(turn), 24 + 15 * np.sin(turn)], axis=1)
    near = KDTree(curve).query(np.argwhere(np.ones((50, 48, 48), bool)))[0] <= radius
    return near.reshape(50, 48, 48), float(np.hypot(2, 15) * 6 * np.pi)


measure = partial(measure_shape, spacing_mm=ISOTROPIC)


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("radius", [7, 15])
def test_a_ball(radius: float, size: int) -> None:
    facts = measure(ball(radius, size))
    assert facts.sphericity == pytest.approx(1, abs=0.01)
    assert facts.tubes.r50_mm == pytest.approx(radius, rel=0.1)
    assert facts.tubes.length_mm == pytest.approx(2 * radius, rel=0.1)
    assert facts.tubes.elongation == pytest.approx(1, abs=0.1)
    assert facts.tubes.branch_elongation == pytest.approx(1, abs=0.1)
    assert facts.tubes.tube_ratio == pytest.approx(2 / 3, rel=0.3)
    assert facts.diameter_p10_mm == facts.diameter_p90_mm == pytest.approx(2 * radius, rel=0.02)
    assert facts.position == pytest.approx((0.5, 0.5, 0.5))
    assert (facts.components, facts.largest_share, facts.contrast) == (1, 1.0, ())
    assert facts.coarsening == (1, 1, 1)


def test_a_cube_is_less_like_a_ball() -> None:
    assert measure(np.pad(np.ones((20,) * 3, bool), 2)).sphericity == pytest.approx(0.85, abs=0.04)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("radius", [2.0, 3.0, 6.0])
def test_a_cylinder(radius: float, even: bool) -> None:
    tubes = measure(cylinder(radius, 56, even=even)).tubes
    assert tubes.length_mm == pytest.approx(56, rel=0.04)
    # the nearest background of a round tube is known to about half a voxel, from below
    assert radius - 0.65 <= tubes.r50_mm <= radius + 0.1
    assert tubes.branch_elongation == pytest.approx(tubes.elongation)
    assert tubes.elongation == pytest.approx(tubes.length_mm / (2 * tubes.r50_mm))
    if radius >= 3:
        assert tubes.elongation == pytest.approx(56 / (2 * radius), rel=0.15)
    assert 0.8 <= tubes.tube_ratio <= 2.0


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_bars_have_their_width(width: int) -> None:
    tubes = measure(np.pad(np.ones((width, width, 40), bool), 2)).tubes
    assert 2 * tubes.r50_mm == pytest.approx(width, rel=0.1 if width > 2 else 0.01)
    assert tubes.thin_share == (width <= 3)
    assert tubes.length_mm == pytest.approx(40, abs=1.5)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.0])
def test_a_helix(radius: float) -> None:
    mask, length = helix(radius)
    tubes = measure(mask).tubes
    assert tubes.length_mm == pytest.approx(length, rel=0.06)
    assert 0.8 <= tubes.tube_ratio <= 1.6
    assert is_tubular(summary([measure(mask)])).holds


def test_lumpy_bodies_are_not_tubular() -> None:
    rng = np.random.default_rng(0)
    z, y, x = grid((40, 40, 40))
    bumps = rng.normal(size=(6, 3))
    waves = sum(np.cos(b[0] * z / 3 + b[1] * y / 3 + b[2] * x / 3) for b in bumps)
    lumpy = np.sqrt(z**2 + y**2 + (x / 1.5) ** 2) + waves <= 11
    flat = (z / 3) ** 2 + (y / 16) ** 2 + (x / 18) ** 2 <= 1
    for mask in (ball(12, 40), lumpy, flat):
        assert not is_tubular(summary([measure(mask)])).holds
    many = np.zeros((40, 40, 40), bool)
    for corner in np.argwhere(np.ones((3, 3, 3))) * 13:
        many[tuple(slice(c, c + 9) for c in corner)] = ball(4, 9)
    facts = measure(many)
    assert facts.components == 27
    assert facts.tubes.elongation < 1.5  # that of a ball, however many there are
    assert not is_tubular(summary([facts])).holds


def test_a_tree_in_a_picture() -> None:
    picture = np.zeros((1, 240, 240), bool)
    for width, (y, x), (dy, dx), length in (
        (7, (120, 5), (0, 1), 110), (5, (120, 115), (0.7, 0.7), 110),
        (5, (120, 115), (-0.7, 0.7), 110),
        (3, (60, 175), (0, 1), 55), (3, (120, 60), (1, 0.2), 80), (2, (120, 80), (-1, 0.1), 80),
    ):  # fmt: skip
        for step in range(length):
            row, column = round(y + dy * step), round(x + dx * step)
            half = width // 2
            picture[0, row - half : row + width - half, column - half : column + width - half] = (
                True
            )
    facts = measure(picture)
    assert facts.tubes.length_mm == pytest.approx(110 + 2 * 109 + 50 + 82 + 80, rel=0.08)
    assert facts.tubes.tube_ratio == pytest.approx(1, abs=0.3)
    assert 0.2 < facts.tubes.thin_share < 0.6
    assert facts.tubes.r95_mm == pytest.approx(3.5, abs=0.2)
    assert is_tubular(summary([facts])).holds
    assert facts.sphericity < 0.4


def test_coarse_slices_tell_the_same_in_mm() -> None:
    fine, spacing = (61, 61, 61), (4.0, 1.0, 1.0)
    z, y, x = grid(fine)
    body = (z / 26) ** 2 + (y / 18) ** 2 + (x / 20) ** 2 <= 1
    tube = ((z - y) ** 2 / 2 + x**2 <= 16) & (np.abs(z + y) < 30)
    for mask in (body, tube):
        a, b = measure(mask), measure_shape(mask[2::4][:15], spacing)
        assert b.sphericity == pytest.approx(a.sphericity, rel=0.06)
        assert b.diameter_p90_mm == pytest.approx(a.diameter_p90_mm, rel=0.03)
        assert b.tubes.r50_mm == pytest.approx(a.tubes.r50_mm, rel=0.25)
        assert b.tubes.r95_mm == pytest.approx(a.tubes.r95_mm, rel=0.25)
        assert b.position[1:] == pytest.approx(a.position[1:], abs=0.01)
        aligned = mean_pairwise_dice([a.occupancy, b.occupancy])
        assert aligned is not None
        assert aligned > 0.85
    doubled = measure_shape(tube, (2.0, 2.0, 2.0))
    assert doubled.tubes.length_mm == pytest.approx(2 * measure(tube).tubes.length_mm)
    assert doubled.tubes.r50_mm == pytest.approx(2 * measure(tube).tubes.r50_mm)
    assert doubled.sphericity == pytest.approx(measure(tube).sphericity)


def test_position_is_that_in_the_body() -> None:
    mask = np.zeros((10, 20, 40), bool)
    mask[2:4, 10:14, 30] = True
    body = Box(lower=(1, 5, 20), upper=(5, 15, 40))
    assert measure(mask).position == pytest.approx((3 / 10, 12 / 20, 30.5 / 40))
    assert measure(mask, body=body).position == pytest.approx((2 / 4, 7 / 10, 10.5 / 20))


def test_contrast() -> None:
    mask, rng = ball(8, 24), np.random.default_rng(0)
    image = 10.0 * mask + rng.normal(0, 0.5, mask.shape)
    assert measure_contrast(mask, image) == pytest.approx(20, rel=0.05)
    facts = measure(mask, image=np.stack([image, 10.0 * mask]))
    first, second = facts.contrast
    assert first == pytest.approx(20, rel=0.05)
    assert second is None
    assert measure_contrast(np.ones_like(mask), image) is None


def test_two_pieces() -> None:
    mask = np.zeros((30, 30, 60), bool)
    mask[5:25, 5:25, 5:25] = ball(8, 20)
    mask[5:25, 5:25, 35:55] = ball(4, 20)
    facts = measure(mask)
    assert facts.components == 2
    assert facts.largest_share == pytest.approx(8 / 9, abs=0.02)
    assert facts.diameter_p10_mm == pytest.approx(8 + 0.8, rel=0.03)
    assert facts.diameter_p90_mm == pytest.approx(16 - 0.8, rel=0.03)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 5), (1, 4, 4), (3, 3, 3), (5, 1, 5), (2, 9, 3)]
)
def test_tiny_and_flat_masks(shape: tuple[int, int, int]) -> None:
    for mask in (np.ones(shape, bool), np.pad(np.ones(shape, bool), ((1, 1), (2, 2), (2, 2)))):
        facts = measure_shape(mask, (3.0, 1.0, 1.0), image=np.ones((1, *mask.shape)))
        assert 0 < facts.sphericity <= 1
        assert facts.tubes.r50_mm > 0
        assert facts.tubes.length_mm > 0
        assert facts.contrast == (None,)
    single = np.zeros((1, 9, 9), bool)
    single[0, 4, 4] = True
    assert measure(single).tubes.r50_mm == 0.5


def test_occupancy_is_centered_and_scaled() -> None:
    small, large = ball(6, 20), np.roll(ball(14, 50), (5, -3, 2), (0, 1, 2))
    a, b = (measure(mask).occupancy for mask in (small, large))
    dice = mean_pairwise_dice([a, b])
    assert dice is not None
    assert dice > 0.93
    share = 4 / 3 * np.pi * (np.sqrt(5 / 3) / REACH / 2) ** 3  # of a ball in its cube
    assert unpack_occupancy(b).size == 32**3
    assert unpack_occupancy(b).mean() == pytest.approx(share, rel=0.03)
    bar = measure(np.pad(np.ones((3, 3, 40), bool), 2)).occupancy
    unlike = mean_pairwise_dice([a, bar])
    assert unlike is not None
    assert unlike < 0.3
    assert mean_pairwise_dice([a]) is None
    picture = measure(np.ones((1, 9, 9), bool)).occupancy
    assert unpack_occupancy(picture).size == 32**2
    assert mean_pairwise_dice([a, picture, b]) == dice


def test_large_masks_are_coarsened_and_keep_their_volume() -> None:
    spacing = np.array([2.0, 1.0, 1.0])
    thin = np.zeros((20, 60, 60), bool)
    thin[9, 30:32, :] = thin[5:15, 20, 20] = True
    for mask, most in ((thin, 2.0), (ball(20, 60), 1.1)):
        coarse, factors = coarsen(mask, spacing, most_voxels=9_000, most_inside=1_000_000)
        assert coarse.size <= 9_000
        assert factors[0] <= factors[1]
        # of single voxels in a row all blocks are alike: all stay
        assert 0.9 <= coarse.sum() * factors.prod() / mask.sum() <= most
    coarse, factors = coarsen(ball(20, 60), spacing, most_voxels=10**9, most_inside=9_000)
    assert coarse.sum() < 10_000
    same, ones = coarsen(thin, spacing, most_voxels=10**9, most_inside=10**9)
    assert same is thin
    assert ones.tolist() == [1, 1, 1]


def test_summary() -> None:
    indices = np.zeros((20, 20, 80), np.uint8)
    indices[:, :, :20] = ball(8, 20) * 1
    twice = indices.copy()
    twice[:, :, 20:40] = ball(8, 20) * 1
    cases = [
        measure_labels(i, 2, ISOTROPIC) for i in (indices, twice, indices, np.zeros_like(indices))
    ]
    one, two = (summarize_label(name, [c[n] for c in cases]).shape for n, name in enumerate("ab"))
    assert two is None
    assert one is not None
    volumes = np.array([1, 2, 1])
    assert one.share_of_cases == 0.75
    assert one.components_mode == 1
    assert one.volume_cv == pytest.approx(volumes.std() / volumes.mean())
    assert one.position_spread == pytest.approx(np.std([10 / 80, 20 / 80, 10 / 80]))
    assert one.aligned_dice is not None
    assert 0.3 < one.aligned_dice < 0.8  # the first and the third are the same
    assert one.median_size_spread == 1
    alone = summary([measure(ball(5, 12))])
    assert (alone.volume_cv, alone.aligned_dice, alone.position_spread) == (None, None, None)


def summary(cases: list[ShapeFacts]) -> ShapeSummary:
    from selfseg.fingerprinting.shapes import summarize_shape

    found = summarize_shape(cases, [1.0] * len(cases), len(cases))
    assert found is not None
    return found


@pytest.mark.data
def test_hippocampi() -> None:
    root = data_root("hippocampus")
    whole = []
    for case in read_dataset(root).cases[:12]:
        assert case.reference is not None
        label = read_label_map(root / case.reference.path)
        whole.append(measure_labels((label.array[0] > 0).astype(np.uint8), 1, ISOTROPIC)[0])
    shape = summarize_label("hippocampus", whole).shape
    assert shape is not None
    for facts in whole:
        assert facts.shape is not None
        assert facts.shape.largest_share == 1
        assert 0.62 <= facts.shape.sphericity <= 0.675
    assert shape.volume_cv == pytest.approx(0.10, abs=0.03)
    assert is_compact(shape).holds
    assert not is_tubular(shape).holds


@pytest.mark.data
def test_vessels_of_the_retina() -> None:
    root = data_root("vessels")
    cases = []
    for case in read_dataset(root).cases[:3]:
        assert case.reference is not None
        label = read_label_map(root / case.reference.path).array[0]
        cases.append(measure_shape(label > 0, ISOTROPIC))
    shape = summary(cases)
    assert is_tubular(shape).holds
    assert shape.median_tube_ratio == pytest.approx(1.1, abs=0.3)
    assert shape.median_thin_share > 0.3
    assert not is_compact(shape).holds
