"""The torch backend against the CPU backend on the same draws; it runs on any device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from selfseg.augmentation.cpu import apply_cpu
from selfseg.augmentation.draw import Hidden, SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.augmentation.gpu import apply_batch
from selfseg.records.augmentation import Augmentation

CPU = torch.device("cpu")
DRAWS_3D = {
    "nothing": SampleDraw(),
    "rotation": SampleDraw(angles=(0.3, -0.5, 0.2)),
    "scaling": SampleDraw(scale=1.3),
    "dummy_2d": SampleDraw(angles=(0.9,), scale=0.8, dummy_2d=True, low_resolution=(0.6, None)),
    "blur": SampleDraw(blur=((0.5, 0.7, 1.0), None)),
    "brightness": SampleDraw(brightness=(0.8, 1.2)),
    "contrast": SampleDraw(contrast=(1.2, 0.8)),
    "low_resolution": SampleDraw(low_resolution=(0.73, 0.5)),
    "gamma": SampleDraw(gamma=(0.8, 1.4)),
    "gamma_inverted": SampleDraw(gamma_inverted=(0.7, 1.5)),
    "mirror": SampleDraw(mirror=(0, 2)),
    "hidden": SampleDraw(hidden=Hidden((0.6, 0.0, -0.8), 1.3, 4.05, (7, 9, 11))),
}
EXACT = {"nothing", "mirror", "brightness", "hidden"}


def make_sample(draw: SampleDraw, patch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    shape = loaded_patch(draw, patch)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    label = np.digitize(ndimage.gaussian_filter(rng.normal(size=shape), 2), [-0.1, 0, 0.05])
    return image, (label - 1).astype(np.int16)


def compare(draws: list[SampleDraw], patch: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Return the largest image difference per sample and the share of differing labels."""
    samples = [make_sample(draw, patch) for draw in draws]
    image, label = apply_batch(
        [torch.from_numpy(image) for image, _ in samples],
        [torch.from_numpy(label) for _, label in samples],
        draws,
        patch,
        device=CPU,
        masked=(1,),
    )
    reference = [
        apply_cpu(image, label, draw, patch, masked=(1,))
        for (image, label), draw in zip(samples, draws, strict=True)
    ]
    assert image.shape == (len(draws), 2, *patch)
    assert label.dtype == torch.int64
    assert int(label.min()) >= 0
    wanted = np.stack([image for image, _ in reference])
    difference = np.abs(image.numpy() - wanted).reshape(len(draws), -1).max(1)
    return difference, float((label.numpy() != np.stack([t for _, t in reference])).mean())


@pytest.mark.parametrize("name", DRAWS_3D)
def test_each_transform_agrees(name: str) -> None:
    difference, labels = compare([DRAWS_3D[name]], (14, 17, 12))
    assert difference[0] <= (0 if name in EXACT else 3e-4)
    assert labels <= (0 if name not in {"rotation", "scaling", "dummy_2d"} else 1e-3)


def test_a_mixed_batch_agrees_sample_by_sample() -> None:
    difference, labels = compare(list(DRAWS_3D.values()), (14, 17, 12))
    assert difference.max() < 3e-4
    assert labels < 1e-3


@given(st.integers(0, 2**32), st.integers(2, 3))
@settings(deadline=None, max_examples=25)
def test_random_recipes_agree(seed: int, dims: int) -> None:
    options = Augmentation(
        rotation_p=0.5, scaling_p=0.5, noise_p=0, blur_p=0.5, brightness_p=0.5, contrast_p=0.5,
        low_resolution_p=0.5, gamma_inverted_p=0.5, gamma_p=0.5, mirror_axes=tuple(range(dims)),
        dummy_2d=seed % 3 == 0,
    )  # fmt: skip
    patch = (9, 15, 16)[-dims:]
    rng = np.random.default_rng(seed)
    draws = [draw_sample(options, channels=2, patch=patch, rng=rng) for _ in range(3)]
    difference, labels = compare(draws, patch)
    # A power below one is steep near the lowest value: it enlarges differences of interpolation.
    assert difference.max() < 2e-2
    assert labels < 5e-3


def test_noise_has_the_drawn_deviation_and_seed() -> None:
    image, label = torch.zeros(1, 40, 40, 40), torch.zeros(40, 40, 40, dtype=torch.int16)
    draws = [
        SampleDraw(noise_std=0.05, noise_seed=1),
        SampleDraw(noise_std=0.1, noise_seed=2**62),
        SampleDraw(),
    ]
    first, _ = apply_batch([image] * 3, [label] * 3, draws, (40, 40, 40), device=CPU)
    again, _ = apply_batch([image] * 3, [label] * 3, draws, (40, 40, 40), device=CPU)
    assert torch.equal(first, again)
    assert float(first[0].std()) == pytest.approx(0.05, rel=0.02)
    assert float(first[1].std()) == pytest.approx(0.1, rel=0.02)
    assert float(first[2].abs().max()) == 0


def test_arguments_stay() -> None:
    image, label = make_sample(SampleDraw(), (8, 8))
    tensors = torch.from_numpy(image.copy()), torch.from_numpy(label.copy())
    draw = SampleDraw(
        noise_std=0.1, brightness=(1.2, 1.1), contrast=(1.1, 1.1), gamma=(1.2, 1.2), mirror=(0,)
    )
    apply_batch([tensors[0]], [tensors[1]], [draw], (8, 8), device=CPU, masked=(0,))
    assert np.array_equal(tensors[0].numpy(), image)
    assert np.array_equal(tensors[1].numpy(), label)
