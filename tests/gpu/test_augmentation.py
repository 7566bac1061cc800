"""Augmentation and loading on a CUDA device against the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trainingdata import make_configuration, make_folder

from selfseg.augmentation.draw import draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.augmentation.gpu import apply_batch
from selfseg.loading import held
from selfseg.loading.batches import Batch, training_batches, validation_batches
from selfseg.records.augmentation import Augmentation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
OFTEN = Augmentation(
    rotation_p=0.5, scaling_p=0.5, noise_p=0, blur_p=0.5, brightness_p=0.5, contrast_p=0.5,
    low_resolution_p=0.5, gamma_inverted_p=0.5, gamma_p=0.5, mirror_axes=(0, 1, 2),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_cuda_agrees_with_cpu_and_never_waits() -> None:
    patch = (20, 24, 16)
    rng = np.random.default_rng(0)
    draws = [draw_sample(OFTEN, channels=2, patch=patch, rng=rng) for _ in range(8)]
    shapes = [loaded_patch(draw, patch) for draw in draws]
    images = [torch.from_numpy(rng.normal(size=(2, *s)).astype(np.float32)) for s in shapes]
    labels = [torch.from_numpy(rng.integers(-1, 3, size=s).astype(np.int16)) for s in shapes]
    expected = apply_batch(images, labels, draws, patch, device=torch.device("cpu"), masked=(0,))
    device = torch.device("cuda")
    there = [image.to(device) for image in images], [label.to(device) for label in labels]
    apply_batch(*there, draws, patch, device=device, masked=(0,))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        image, label = apply_batch(*there, draws, patch, device=device, masked=(0,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float((image.cpu() - expected[0]).abs().max()) < 2e-2
    assert float((label.cpu() != expected[1]).float().mean()) < 5e-3


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("patch", [(12, 16, 14), (20, 18)])
def test_batches_on_the_device(
    tmp_path: Path, patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same whether workers cut patches, how many there are, or the device holds the cases."""
    ids = make_folder(tmp_path, channels=2)
    configuration = make_configuration(patch, channels=2, batch=3)

    def make(steps: range, workers: int) -> list[Batch]:
        return list(
            training_batches(
                configuration,
                tmp_path,
                ids,
                steps=steps,
                seed=1,
                workers=workers,
                device=torch.device("cuda"),
            )
        )

    reference = make(range(6), 0)
    assert reference[0].image.is_cuda
    assert reference[0].image.shape == (3, 2, *patch)
    assert reference[0].label.dtype == torch.int64
    assert same(make(range(6), 2), reference)
    assert same(make(range(3, 6), 1), reference[3:])
    monkeypatch.setattr(held, "FREE_SHARE", 0.0)
    assert same(make(range(6), 0), reference)
    assert same(make(range(6), 2), reference)
    plain = [
        list(
            validation_batches(
                configuration, tmp_path, ids, steps=4, seed=1, workers=1, device=torch.device(name)
            )
        )
        for name in ("cpu", "cuda")
    ]
    assert same([Batch(b.image.cpu(), b.label.cpu()) for b in plain[1]], plain[0])
