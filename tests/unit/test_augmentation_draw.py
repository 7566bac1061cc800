from __future__ import annotations

import numpy as np
import pytest

from selfseg.augmentation.draw import SampleDraw, draw_sample
from selfseg.records.augmentation import Augmentation


def draws(
    options: Augmentation, count: int, *, channels: int = 2, dims: int = 3
) -> list[SampleDraw]:
    rng = np.random.default_rng(7)
    return [
        draw_sample(options, channels=channels, patch=(16,) * dims, rng=rng) for _ in range(count)
    ]


def test_shares_of_transforms_follow_the_options() -> None:
    options = Augmentation(mirror_axes=(0, 2))
    sample = draws(options, 20_000)

    def share(values: list[bool]) -> float:
        return float(np.mean(values))

    # Four standard deviations of a share of 20,000.
    close = {"abs": 4 * np.sqrt(0.25 / 20_000)}
    assert share([d.angles is not None for d in sample]) == pytest.approx(0.2, **close)
    assert share([d.scale is not None for d in sample]) == pytest.approx(0.2, **close)
    assert share([d.is_spatial for d in sample]) == pytest.approx(0.36, **close)
    assert share([d.noise_std is not None for d in sample]) == pytest.approx(0.1, **close)
    assert share([d.blur[0] is not None for d in sample]) == pytest.approx(0.1, **close)
    assert share([any(d.blur) for d in sample]) == pytest.approx(0.2 * 0.75, **close)
    assert share([d.brightness is not None for d in sample]) == pytest.approx(0.15, **close)
    assert share([d.contrast is not None for d in sample]) == pytest.approx(0.15, **close)
    assert share([d.low_resolution[1] is not None for d in sample]) == pytest.approx(0.125, **close)
    assert share([d.gamma_inverted is not None for d in sample]) == pytest.approx(0.1, **close)
    assert share([d.gamma is not None for d in sample]) == pytest.approx(0.3, **close)
    assert share([0 in d.mirror for d in sample]) == pytest.approx(0.5, **close)
    assert share([0 in d.mirror and 2 in d.mirror for d in sample]) == pytest.approx(0.25, **close)
    assert not any(1 in d.mirror for d in sample)


def test_ranges_are_filled_and_kept() -> None:
    sample = draws(Augmentation(), 20_000)
    scales = np.array([d.scale for d in sample if d.scale is not None])
    assert scales.min() == pytest.approx(0.7, abs=0.01)
    assert scales.max() == pytest.approx(1.4, abs=0.01)
    assert ((scales >= 0.7) & (scales <= 1.4)).all()
    assert scales.mean() == pytest.approx(1.05, abs=0.02)
    angles = np.rad2deg([d.angles for d in sample if d.angles is not None])
    assert angles.shape[1] == 3
    assert np.abs(angles).max() == pytest.approx(30, abs=0.5)
    assert np.abs(angles).max() <= 30
    sigmas = np.array([s for d in sample for s in d.blur if s is not None])
    assert sigmas.shape[1] == 3
    assert sigmas.min() >= 0.5
    assert sigmas.max() <= 1.0
    assert len({d.noise_seed for d in sample}) == len(sample)


def test_factors_are_below_one_as_often_as_above() -> None:
    gammas = np.array([d.gamma for d in draws(Augmentation(), 20_000) if d.gamma is not None])
    assert (gammas < 1).mean() == pytest.approx(0.5, abs=0.03)
    assert gammas.min() >= 0.7
    assert gammas.max() <= 1.5
    assert gammas[gammas > 1].mean() == pytest.approx(1.25, abs=0.02)
    # Every channel has its own factor.
    assert not np.allclose(gammas[:, 0], gammas[:, 1])


def test_one_sided_ranges_are_uniform() -> None:
    values = [
        d.brightness[0]
        for d in draws(Augmentation(brightness_p=1.0, brightness=(0.2, 0.6)), 2000)
        if d.brightness
    ]
    assert min(values) >= 0.2
    assert max(values) <= 0.6
    assert np.mean(values) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(("dims", "dummy_2d"), [(2, False), (2, True), (3, True)])
def test_one_angle_in_the_plane(dims: int, dummy_2d: bool) -> None:
    options = Augmentation(rotation_p=1.0, rotation_degrees=180.0, dummy_2d=dummy_2d)
    sample = draws(options, 500, dims=dims)
    angles = np.rad2deg([d.angles for d in sample if d.angles is not None])
    assert angles.shape == (500, 1)
    assert np.abs(angles).max() > 170
    assert all(d.dummy_2d == (dims == 3) for d in sample)


def test_same_stream_gives_the_same_draw() -> None:
    assert draws(Augmentation(), 50) == draws(Augmentation(), 50)
    assert SampleDraw() == SampleDraw()
    assert not SampleDraw().is_spatial


def test_nothing_is_drawn_with_zero_chances() -> None:
    options = Augmentation(
        rotation_p=0, scaling_p=0, noise_p=0, blur_p=0, brightness_p=0, contrast_p=0,
        low_resolution_p=0, gamma_inverted_p=0, gamma_p=0,
    )  # fmt: skip
    draw = draws(options, 1)[0]
    assert draw == SampleDraw(
        noise_seed=draw.noise_seed, blur=(None, None), low_resolution=(None, None)
    )


def test_slabs_are_hidden_as_often_as_asked_and_near_the_middle() -> None:
    options = Augmentation(hidden_p=0.5, hidden_width=(0.2, 0.3))
    found = [draw.hidden for draw in draws(options, 4000) if draw.hidden is not None]

    assert 0.47 < len(found) / 4000 < 0.53
    assert np.allclose([np.linalg.norm(slab.normal) for slab in found], 1)
    widths = np.array([2 * slab.half_width for slab in found]) / 16
    assert 0.2 <= widths.min() < 0.21
    assert 0.29 < widths.max() <= 0.3
    assert abs(np.std([slab.offset for slab in found]) / 16 - 0.12) < 0.01
    shifts = [step for slab in found for step in slab.shift]
    assert (min(shifts), max(shifts)) == (5, 10)  # a third to two thirds of 16
