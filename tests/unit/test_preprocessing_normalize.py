"""Normalization: closed forms in float64, constants, masks; the input is never changed."""

from __future__ import annotations

import numpy as np
import pytest

from selfseg.preprocessing.normalize import BLOCK, normalize
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    Normalization,
    PercentileNormalization,
    ZScore,
)

CT = CTNormalization(lower=-100, upper=200, mean=40, std=50)
ALL: tuple[Normalization, ...] = (
    CT, ZScore(), ZScore(inside_mask=True), PercentileNormalization(), MinMax(), FixedScale(),
    NoNormalization(),
)  # fmt: skip


def noise(shape: tuple[int, int, int] = (4, 9, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(30, 200, shape).astype(np.float32)


def standardized(values: np.ndarray) -> np.ndarray:
    exact = values.astype(np.float64)
    return np.asarray((exact - exact.mean()) / exact.std())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CT, lambda x: (x.clip(-100, 200) - 40) / 50),
        (ZScore(), standardized),
        (
            PercentileNormalization(lower_percent=5, upper_percent=90),
            lambda x: standardized(x.clip(*np.percentile(x, (5, 90)))),
        ),
        (MinMax(), lambda x: (x - x.min()) / (x.max() - x.min())),
        (FixedScale(divisor=255), lambda x: x / 255),
        (NoNormalization(), lambda x: x),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_closed_forms(options: Normalization, expected: object) -> None:
    values = noise()
    everywhere = np.ones(values.shape, bool)
    assert callable(expected)
    result = normalize(values, everywhere, options)
    np.testing.assert_allclose(result, expected(values.astype(np.float64)), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("options", ALL, ids=lambda options: options.kind)
def test_result_is_a_new_float32_array(options: Normalization) -> None:
    values = noise()
    before = values.copy()
    result = normalize(values, values > 0, options)
    assert result.dtype == np.float32
    assert result.shape == values.shape
    assert not np.shares_memory(result, values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("options", ALL, ids=lambda options: options.kind)
def test_a_constant_image_stays_finite(options: Normalization) -> None:
    values = np.full((2, 3, 4), 7.25, np.float32)
    result = normalize(values, values > 0, options)
    assert np.isfinite(result).all()
    if isinstance(options, ZScore | PercentileNormalization | MinMax):
        assert (result == 0).all()


def test_z_score_inside_the_mask() -> None:
    values = noise()
    inside = np.random.default_rng(1).random(values.shape) < 0.4
    result = normalize(values, inside, ZScore(inside_mask=True))
    np.testing.assert_allclose(result[inside], standardized(values[inside]), atol=2e-6)
    assert (result[~inside] == 0).all()
    whole = normalize(values, inside, ZScore())
    np.testing.assert_allclose(whole, standardized(values), atol=2e-6)
    assert not normalize(values, np.zeros_like(inside), ZScore(inside_mask=True)).any()


def test_statistics_of_many_large_values_keep_their_digits() -> None:
    """Summed in float32 the mean would be off by far more than the spread."""
    values = np.full((3, 1, BLOCK // 2 + 5), 30_000, np.float32)
    values[..., ::2] += 2
    result = normalize(values, values > 0, ZScore())
    share = float((values == 30_002).mean())
    expected = np.array([share - 1, share]) / np.sqrt(share * (1 - share))
    np.testing.assert_allclose(np.unique(-result), np.sort(expected), atol=1e-5)


def test_std_of_the_dataset_may_be_zero() -> None:
    options = CTNormalization(lower=-5, upper=5, mean=5, std=0)
    values = np.full((1, 2, 2), 9, np.float32)
    assert (normalize(values, values > 0, options) == 0).all()
