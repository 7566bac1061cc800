"""Pooled intensities: as those of the same number of voxels drawn from every case."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from selfseg.fingerprinting.intensities import pool_intensities, sketch_intensities
from selfseg.records.fingerprint import SKETCH_PERCENTS

DRAWN = 200_000


def cases(seed: int = 0) -> list[np.ndarray]:
    """Foregrounds of very different size, place and shape."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(100, 20, 300_000),
        rng.normal(-50, 60, 4_000),
        rng.gamma(2.0, 40.0, 50_000),
        np.round(rng.normal(60, 15, 20_000)),
        rng.choice([0.0, 1000.0], 10_000, p=[0.9, 0.1]),
    ]


def test_sketch_is_exact() -> None:
    values = cases()[2].astype(np.float32)
    sketch = sketch_intensities(values)
    assert sketch.count == 50_000
    assert sketch.mean == pytest.approx(values.mean(dtype=float), rel=1e-6)
    assert sketch.std == pytest.approx(values.std(dtype=float), rel=1e-6)
    expected = np.percentile(values.astype(float), SKETCH_PERCENTS)
    np.testing.assert_allclose(sketch.quantiles, expected, rtol=1e-6)
    assert list(SKETCH_PERCENTS) == sorted(SKETCH_PERCENTS)
    assert (SKETCH_PERCENTS[0], SKETCH_PERCENTS[-1]) == (0, 100)


def test_no_foreground_is_an_empty_sketch() -> None:
    assert sketch_intensities(np.zeros(0, np.float32)).count == 0
    facts = pool_intensities([sketch_intensities(np.zeros(0, np.float32))])
    assert (facts.mean, facts.std) == (0, 1)  # harmless where it is used to normalize


def test_pooled_equal_an_equal_draw_from_every_case() -> None:
    foregrounds = cases()
    rng = np.random.default_rng(1)
    drawn = np.concatenate([rng.choice(values, DRAWN) for values in foregrounds])
    facts = pool_intensities([sketch_intensities(values) for values in foregrounds])
    error = 4 * drawn.std() / np.sqrt(drawn.size)
    assert facts.mean == pytest.approx(drawn.mean(), abs=error)
    assert facts.std == pytest.approx(drawn.std(), rel=0.01)
    assert facts.minimum == pytest.approx(min(values.min() for values in foregrounds), rel=1e-6)
    assert facts.maximum == pytest.approx(max(values.max() for values in foregrounds), rel=1e-6)
    assert facts.median == pytest.approx(np.median(drawn), abs=1.0)
    for percent, found in [(0.5, facts.percentile_00_5), (99.5, facts.percentile_99_5)]:
        low, high = np.percentile(drawn, [max(percent - 0.05, 0), min(percent + 0.05, 100)])
        assert low - 1 <= found <= high + 1


def test_clip_of_ct_lies_within_the_sampling_error() -> None:
    """Many similar cases: the percentiles of the plan's clip, against all voxels together."""
    rng = np.random.default_rng(2)
    foregrounds = [rng.normal(rng.normal(60, 15), 40, 20_000) for _ in range(50)]
    drawn = np.concatenate(foregrounds)
    facts = pool_intensities([sketch_intensities(values) for values in foregrounds])
    low, high = np.percentile(drawn, (0.5, 99.5))
    assert facts.percentile_00_5 == pytest.approx(low, abs=1.0)
    assert facts.percentile_99_5 == pytest.approx(high, abs=1.0)


def test_cases_weigh_the_same_and_empty_ones_nothing() -> None:
    large, small = np.full(90_000, 10.0), np.full(10, 20.0)
    sketches = [sketch_intensities(values) for values in (large, small, np.zeros(0))]
    facts = pool_intensities(sketches)
    assert (facts.mean, facts.std, facts.minimum, facts.maximum) == (15, 5, 10, 20)
    assert (facts.percentile_00_5, facts.percentile_99_5) == (10, 20)


def test_spread_survives_a_large_offset() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(30_000 + shift, 2, 5_000).astype(np.float32) for shift in (0, 1, 2)]
    facts = pool_intensities([sketch_intensities(part) for part in values])
    assert facts.std == pytest.approx(np.concatenate(values).std(dtype=float), rel=0.01)


def test_one_value_has_no_spread() -> None:
    facts = pool_intensities([sketch_intensities(np.array([7.0]))])
    assert (facts.median, facts.std, facts.percentile_99_5) == (7, 0, 7)


def test_mixture_of_two_ramps_in_closed_form() -> None:
    """Uniform on [0, 100] and on [50, 250]: below 50 the share grows by 1/200, then by 3/400."""
    ramps = [np.linspace(0, 100, 5_001), np.linspace(50, 250, 9_001)]
    facts = pool_intensities([sketch_intensities(values) for values in ramps])
    assert facts.percentile_00_5 == pytest.approx(1, rel=1e-6)
    assert facts.median == pytest.approx(50 + 0.25 * 400 / 3, rel=1e-6)
    assert facts.percentile_99_5 == pytest.approx(248, rel=1e-6)


def test_a_value_that_many_voxels_share_is_found_exactly() -> None:
    values = [np.r_[np.arange(-50.0, 0), np.zeros(900), np.arange(1.0, 51)], np.linspace(-9, 9, 77)]
    facts = pool_intensities([sketch_intensities(part) for part in values])
    assert facts.median == 0


@pytest.mark.parametrize("copies", [1, 7])
def test_equal_cases_pool_to_the_percentiles_of_one(copies: int) -> None:
    values = np.linspace(-200, 800, 10_001)
    facts = pool_intensities([sketch_intensities(values)] * copies)
    found = (facts.percentile_00_5, facts.median, facts.percentile_99_5)
    np.testing.assert_allclose(found, np.percentile(values, (0.5, 50, 99.5)), rtol=1e-6)
    assert facts.std == pytest.approx(values.std(), rel=1e-6)


def test_memory_is_that_of_one_sorted_copy() -> None:
    values = np.random.default_rng(0).normal(size=8_000_000).astype(np.float32)
    tracemalloc.start()
    sketch_intensities(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes + 32 * 2**20
