"""Runs, zones, tones, dependence by mirp: the IBSI's phantom, plain counts, our grid and bins."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from selfseg.classification.regions import compute_features
from selfseg.errors import SelfSegError
from selfseg.radiomics import mirp_features
from selfseg.radiomics.cooccurrence import DIRECTIONS, cooccurrence_features
from selfseg.radiomics.extract import prepare_region, region_features
from selfseg.radiomics.mirp_features import FAMILIES, further_features, mirp_version
from selfseg.radiomics.region import Levels, discretize, grid_of_levels
from selfseg.records.features import (
    ChannelFeatures,
    FurtherFamily,
    OwnScale,
    RadiomicsOptions,
    ZScoreScale,
)

needs_mirp = pytest.mark.skipif(
    mirp_version() is None, reason="mirp (the extra 'radiomics') is not installed"
)
EVERY: tuple[FurtherFamily, ...] = get_args(FurtherFamily)
CT = ChannelFeatures(scale=OwnScale(), bin_width=25.0)

# The digital phantom of the IBSI (Zwanenburg et al., 2020); 0 is outside.
PHANTOM: Levels = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
# Its values in the IBSI's reference manual (3D, merged), with the three digits that it gives.
MANUAL = {
    "runs_short_low_level_emphasis": 0.372, "runs_short_high_level_emphasis": 8.67,
    "runs_long_low_level_emphasis": 2.16, "runs_long_high_level_emphasis": 15.6,
    "runs_level_nonuniformity": 281, "runs_level_nonuniformity_normalized": 0.43,
    "runs_length_nonuniformity": 328, "runs_length_nonuniformity_normalized": 0.501,
    "zones_large_high_level_emphasis": 1490, "zones_level_nonuniformity": 1.4,
    "zones_level_nonuniformity_normalized": 0.28, "zones_size_nonuniformity": 1,
    "zones_size_nonuniformity_normalized": 0.2, "zones_percentage": 0.0676,
    "zones_level_variance": 2.64, "zones_size_variance": 331, "zones_entropy": 2.32,
    "distance_zones_far_low_level_emphasis": 0.253,
    "distance_zones_far_high_level_emphasis": 15.6, "distance_zones_level_nonuniformity": 1.4,
    "distance_zones_level_nonuniformity_normalized": 0.28,
    "distance_zones_distance_nonuniformity": 5,
    "distance_zones_distance_nonuniformity_normalized": 1, "distance_zones_percentage": 0.0676,
    "distance_zones_level_variance": 2.64, "distance_zones_distance_variance": 0,
    "distance_zones_entropy": 1.92,
    "tones_coarseness": 0.0296, "tones_contrast": 0.584, "tones_busyness": 6.54,
    "tones_complexity": 13.5, "tones_strength": 0.763,
    "dependence_many_low_level_emphasis": 102, "dependence_many_high_level_emphasis": 235,
    "dependence_level_nonuniformity": 37.9, "dependence_level_nonuniformity_normalized": 0.512,
    "dependence_count_nonuniformity": 4.86, "dependence_count_nonuniformity_normalized": 0.0657,
    "dependence_level_variance": 3.05, "dependence_count_variance": 22.1,
    "dependence_entropy": 4.4, "dependence_energy": 0.0533,
}  # fmt: skip
# Our names of co-occurrence features, and mirp's columns.
COOCCURRENCE = {
    "joint_maximum": "joint_max", "joint_average": "joint_avg", "joint_variance": "joint_var",
    "joint_entropy": "joint_entr", "difference_variance": "diff_var",
    "difference_entropy": "diff_entr", "sum_entropy": "sum_entr",
    "angular_second_moment": "energy", "contrast": "contrast", "dissimilarity": "dissimilarity",
    "inverse_difference": "inv_diff", "inverse_difference_normalized": "inv_diff_norm",
    "inverse_difference_moment": "inv_diff_mom",
    "inverse_difference_moment_normalized": "inv_diff_mom_norm", "inverse_variance": "inv_var",
    "correlation": "corr", "autocorrelation": "auto_corr", "cluster_tendency": "clust_tend",
    "cluster_shade": "clust_shade", "cluster_prominence": "clust_prom",
    "information_1": "info_corr1", "information_2": "info_corr2",
}  # fmt: skip

Counts = Counter[tuple[int, int]]  # (level, extent): how often
Place = tuple[int, ...]


def voxels(levels: Levels) -> Iterator[tuple[Place, int]]:
    for place in np.argwhere(levels > 0):
        yield tuple(int(part) for part in place), int(levels[tuple(place)])


def at(levels: Levels, place: Place, step: Place, sign: int = 1) -> tuple[Place, int]:
    """Return a neighbor and its level, 0 beyond the grid."""
    there = tuple(a + sign * b for a, b in zip(place, step, strict=True))
    inside = all(0 <= part < size for part, size in zip(there, levels.shape, strict=True))
    return there, int(levels[there]) if inside else 0


def count_runs(levels: Levels) -> Counts:
    found: Counts = Counter()
    for step in DIRECTIONS:
        for place, level in voxels(levels):
            if at(levels, place, step, -1)[1] == level:
                continue
            length, (there, other) = 1, at(levels, place, step)
            while other == level:
                length, (there, other) = length + 1, at(levels, there, step)
            found[level, length] += 1
    return found


def count_zones(levels: Levels, *, by_distance: bool) -> Counts:
    distance = ndimage.distance_transform_cdt(np.pad(levels > 0, 1), metric="taxicab")
    distance = distance[1:-1, 1:-1, 1:-1]
    found: Counts = Counter()
    for level in np.unique(levels[levels > 0]):
        zones, count = ndimage.label(levels == level, structure=np.ones((3, 3, 3)))
        for zone in range(1, count + 1):
            inside = zones == zone
            found[int(level), int(distance[inside].min() if by_distance else inside.sum())] += 1
    return found


def count_dependence(levels: Levels) -> Counts:
    found: Counts = Counter()
    for place, level in voxels(levels):
        around = [at(levels, place, step, sign)[1] for step in DIRECTIONS for sign in (-1, 1)]
        found[level, 1 + around.count(level)] += 1
    return found


def features_of_counts(
    counts: Counts, family: str, little: str, much: str, extent: str
) -> dict[str, float]:
    """Return what the IBSI's formulas (3.7) give; `i` are levels, `j` extents."""
    i, j = np.array(list(counts)).T.astype(float)
    n = np.array(list(counts.values()), float)
    p = n / n.sum()
    by_level, by_extent = (
        np.array([p[axis == value].sum() for value in set(axis)]) for axis in (i, j)
    )
    found = {
        f"{little}_emphasis": p @ j**-2, f"{much}_emphasis": p @ j**2,
        "low_level_emphasis": p @ i**-2, "high_level_emphasis": p @ i**2,
        f"{little}_low_level_emphasis": p @ (i * j) ** -2,
        f"{little}_high_level_emphasis": p @ (i / j) ** 2,
        f"{much}_low_level_emphasis": p @ (j / i) ** 2,
        f"{much}_high_level_emphasis": p @ (i * j) ** 2,
        "level_nonuniformity": n.sum() * (by_level @ by_level),
        "level_nonuniformity_normalized": by_level @ by_level,
        f"{extent}_nonuniformity": n.sum() * (by_extent @ by_extent),
        f"{extent}_nonuniformity_normalized": by_extent @ by_extent,
        "level_variance": p @ (i - p @ i) ** 2, f"{extent}_variance": p @ (j - p @ j) ** 2,
        "entropy": -(p @ np.log2(p)),
    }  # fmt: skip
    return {f"{family}_{name}": float(value) for name, value in found.items()}


def tones_of(levels: Levels) -> dict[str, float]:
    """Return coarseness and strength (IBSI, 3.10)."""
    total: defaultdict[int, float] = defaultdict(float)
    number: Counter[int] = Counter()
    for place, level in voxels(levels):
        around = [at(levels, place, step, sign)[1] for step in DIRECTIONS for sign in (-1, 1)]
        known = [other for other in around if other]
        if known:
            total[level] += abs(level - sum(known) / len(known))
            number[level] += 1
    share = {level: count / sum(number.values()) for level, count in number.items()}
    pairs = sum((share[a] + share[b]) * (a - b) ** 2 for a in share for b in share)
    return {
        "tones_coarseness": 1 / sum(share[level] * total[level] for level in share),
        "tones_strength": pairs / sum(total.values()),
    }


def some_levels(*shape: int, seed: int = 0) -> Levels:
    """Return patches of four levels with holes, on the grid's edge too."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 0.8)
    levels = 1 + np.digitize(smooth, np.quantile(smooth, (0.25, 0.5, 0.75)))
    return np.asarray(np.where(rng.random(shape) > 0.15, levels, 0), np.int64)


def test_names_are_those_of_one_family_each() -> None:
    assert set(FAMILIES) == set(EVERY)
    names = [f"{family}_{name}" for family, known in FAMILIES.items() for name in known.names]
    assert len(names) == len(set(names)) == 69
    for name in names:
        assert sum(name.startswith(f"{family}_") for family in EVERY) == 1


@needs_mirp
def test_the_phantom_has_the_published_values() -> None:
    found = further_features(PHANTOM, EVERY)
    assert len(found) == 69
    digits = {name: float(f"{found[name]:.3g}") for name in MANUAL}
    assert digits == pytest.approx(MANUAL, rel=1e-9, abs=1e-12)


@needs_mirp
@pytest.mark.parametrize("shape", [None, (6, 7, 5), (1, 8, 7), (8, 1, 7), (8, 7, 1)])
def test_plain_counts_give_the_same(shape: tuple[int, ...] | None) -> None:
    levels = PHANTOM if shape is None else some_levels(*shape)
    expected = {
        **features_of_counts(count_runs(levels), "runs", "short", "long", "length"),
        **features_of_counts(
            count_zones(levels, by_distance=False), "zones", "small", "large", "size"
        ),
        **features_of_counts(
            count_zones(levels, by_distance=True), "distance_zones", "near", "far", "distance"
        ),
        **features_of_counts(count_dependence(levels), "dependence", "few", "many", "count"),
        **tones_of(levels),
    }
    found = further_features(levels, EVERY)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    size = np.count_nonzero(levels)
    assert found["runs_percentage"] == pytest.approx(
        count_runs(levels).total() / size / len(DIRECTIONS)
    )


@needs_mirp
def test_grid_and_bins_are_those_of_our_own_texture() -> None:
    """mirp sorts the same intensities into levels itself, and must find our co-occurrence."""
    from mirp import extract_features

    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.normal(size=(1, 9, 16, 15)), (0, 1, 1, 1)) * 400 + 40
    mask = np.zeros(image.shape[1:], bool)
    mask[2:7, 3:13, 4:12] = rng.random((5, 10, 8)) > 0.1
    options = RadiomicsOptions(spacing_mm=1.0, channels=(CT,))
    region = prepare_region(image, mask, (2.0, 0.8, 0.8), options)
    values = region.channels[0][region.mask]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units that it does not know
        (table,) = extract_features(
            image=region.channels[0],
            mask=region.mask.astype(np.uint8),
            base_feature_families="cm",
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=CT.bin_width,
            resegmentation_intensity_range=[float(values.min()), math.nan],
            glcm_spatial_method="3d_volume_merge",
        )
    ours = cooccurrence_features(grid_of_levels(region, discretize(values, width=CT.bin_width)))
    theirs = {
        name: float(table[f"cm_{column}_d1_3d_v_mrg_fbs_w25.0"].iloc[0])
        for name, column in COOCCURRENCE.items()
    }
    assert set(ours) == set(COOCCURRENCE)
    assert theirs == pytest.approx(ours, rel=1e-9)


@needs_mirp
def test_features_come_beside_our_own_of_every_channel() -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(-100, 200, (2, 7, 8, 9)).astype(float)
    mask = rng.random((7, 8, 9)) > 0.5
    channels = (CT, ChannelFeatures(scale=ZScoreScale(), bin_width=5.0))
    plain = RadiomicsOptions(spacing_mm=1.0, channels=channels)
    both = plain.model_copy(update={"further": ("zones", "tones")})
    own = region_features(prepare_region(image, mask, (1.0, 1.0, 1.0), plain), plain)
    found = region_features(prepare_region(image, mask, (1.0, 1.0, 1.0), both), both)
    assert {name: found[name] for name in own} == own
    more = set(found) - set(own)
    assert {name.split("_")[0] for name in more} == {"zones", "tones"}
    assert len(more) == 2 * (16 + 5)
    assert found["zones_percentage@1"] != found["zones_percentage"]

    shifted = region_features(prepare_region(image + 1000, mask, (1.0, 1.0, 1.0), both), both)
    assert {name: shifted[name] for name in more} == pytest.approx(
        {name: found[name] for name in more}, rel=1e-9
    )


@needs_mirp
def test_mirroring_turning_and_margins_change_no_feature() -> None:
    levels = some_levels(4, 1, 7, seed=2)
    plain = further_features(levels, EVERY)
    turned = np.rot90(np.pad(levels, 3), axes=(1, 2))[:, ::-1]
    assert further_features(turned, EVERY) == pytest.approx(plain, rel=1e-9)


@needs_mirp
def test_voxels_without_neighbors_and_constants_are_defined() -> None:
    apart = np.zeros((5, 5, 5), np.int64)
    apart[0, 0, 0], apart[4, 4, 4] = 1, 3
    one_level = {"coarseness": 1e6, "contrast": 0, "busyness": 0, "complexity": 0, "strength": 0}
    for levels in (apart, apart[:1, :1, :1], np.ones((3, 3, 3), np.int64)):
        found = further_features(levels, EVERY)
        assert all(math.isfinite(value) for value in found.values())
        assert {name: found[f"tones_{name}"] for name in one_level} == one_level


@needs_mirp
def test_nothing_is_logged_and_logging_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    further_features(np.ones((2, 2, 2), np.int64), ("zones",))
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.filters, root.level) == ([], [], level)


@needs_mirp
def test_a_mirp_that_names_features_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mirp_features.SETTINGS, "glszm_spatial_method", "2d")
    with pytest.raises(SelfSegError, match=r"mirp .* gives no zones_small_emphasis, .*\n.*2\.7"):
        further_features(np.ones((2, 2, 2), np.int64), ("zones",))


def test_without_mirp_it_is_refused_before_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirp_features, "mirp_version", lambda: None)
    assert further_features(PHANTOM, ()) == {}
    options = RadiomicsOptions(spacing_mm=1.0, channels=(CT,), further=("runs", "tones"))
    with pytest.raises(SelfSegError, match="the radiomics runs, tones are computed with mirp"):
        compute_features([], options, contours=None, seed=0, workers=1)
    with pytest.raises(SelfSegError, match=r"not installed\n.*extra 'radiomics'"):
        further_features(PHANTOM, options.further)


def test_an_environment_without_the_package_has_no_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (tmp_path / "mirp").mkdir()  # a folder of that name is not the package
    assert mirp_version() is None


def test_a_mirp_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirp_features, "mirp_version", lambda: "2.7.0")
    monkeypatch.setitem(sys.modules, "mirp", None)
    with pytest.raises(SelfSegError, match=r"runs are computed with mirp, which cannot be"):
        mirp_features.require_mirp(("runs",))
