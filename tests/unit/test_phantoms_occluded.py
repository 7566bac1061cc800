"""The organ behind a veil is compact and its shape predictable; blobs are neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from selfseg.planners.shapes import is_compact

from selfseg.fingerprinting.extract import inspect
from selfseg.io.formats import read_dataset
from selfseg.phantoms.occluded import (
    BACKGROUND,
    ORGAN_VALUE,
    make_occluded,
    write_blobs_dataset,
    write_occluded_dataset,
)


def test_a_slab_of_the_organ_looks_like_its_surroundings() -> None:
    """A good part of the organ is hidden, but never all of it, and it lies inside the image."""
    shares = []
    for seed in range(20):
        phantom = make_occluded(np.random.default_rng(seed))
        smooth = ndimage.gaussian_filter(phantom.image, 0.7)
        bright = smooth > (BACKGROUND + ORGAN_VALUE) / 2
        shares.append(1 - bright[phantom.label == 1].mean())
        _, count = ndimage.label(phantom.label)
        assert count == 1
        low, high = (np.argwhere(phantom.label).min(0), np.argwhere(phantom.label).max(0))
        assert low.min() > 0
        assert (high < np.array(phantom.label.shape) - 1).all()
    assert 0.5 < np.mean(shares) < 0.85
    assert max(shares) < 0.95


def test_the_organ_is_compact_and_blobs_are_not(tmp_path: Path) -> None:
    write_occluded_dataset(tmp_path / "organ", name="organ", train=6, test=1, seed=0)
    write_blobs_dataset(tmp_path / "blobs", name="blobs", train=6, test=1, seed=0)
    verdicts = {}
    for name in ("organ", "blobs"):
        _, fingerprint = inspect(read_dataset(tmp_path / name), workers=1)
        shape = fingerprint.labels[0].shape
        assert shape is not None
        verdicts[name] = is_compact(shape)
    assert verdicts["organ"].holds, verdicts["organ"].because
    assert not verdicts["blobs"].holds
