"""Golden vectors: the rules give the plans that nnU-Net 2.8.1 gave for the same facts.

Every vector has four columns: the default planner and the residual presets M, L and XL. The presets
have no batch cap there, so their cap is lifted here; classes and channels are not counted extra.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest
from plannerfacts import make_fingerprint
from selfseg.planners.counts import count_features, count_parameters
from selfseg.planners.families import (
    PLAIN,
    RESIDUAL_L,
    RESIDUAL_M,
    RESIDUAL_XL,
    Family,
    build_options,
)
from selfseg.planners.low_resolution import decide_low_resolution
from selfseg.planners.patch import Request, Sizes, decide_sizes
from selfseg.planners.spacing import decide_grid, target_spacing
from selfseg.planners.topology import decide_topology

from selfseg.records.serial import Shape3, Triple

FAMILIES: dict[str, Family] = {
    "default": PLAIN,
    "M": replace(RESIDUAL_M, batch_share=1.0),
    "L": replace(RESIDUAL_L, batch_share=1.0),
    "XL": replace(RESIDUAL_XL, batch_share=1.0),
}
Low = tuple[Triple, Triple, str] | None  # spacing mm, median shape, patch and batch


@dataclass(frozen=True)
class Vector:
    """Facts of a dataset, and a value for each column: "patch bBATCH" and low resolution."""

    spacing: Triple
    shape: Shape3
    cases: int
    labels: int  # including background
    volume: tuple[str, ...]
    plane: tuple[str, ...]
    low: tuple[Low, ...] = (None,) * 4


LIVER_LOW = ((2.4273, 1.8631, 1.8631), (178.0, 211.0, 211.0), "128x128x128 b2")
PANCREAS_LOW = ((2.575, 1.2882, 1.2882), (90.0, 319.0, 319.0), "56x224x192 b2")
AMOS_LOW = ((3.1159, 1.564, 1.564), (149.0, 224.0, 224.0), "96x160x128 b2")
CAPPED_512 = ("512x512 b12", "512x512 b12", "512x512 b35", "512x512 b52")

VECTORS = {
    "hippocampus": Vector(
        (1.0, 1.0, 1.0), (36, 50, 35), 260, 3,
        ("40x56x40 b9", "40x56x40 b58", "40x56x40 b178", "40x56x40 b183"),
        ("56x40 b366", "56x40 b1618", "56x40 b4554", "56x40 b6711"),
    ),
    "heart": Vector(
        (1.37, 1.25, 1.25), (115, 320, 232), 20, 2,
        ("80x192x160 b2", "80x192x160 b2", "112x288x224 b2", "128x320x256 b3"),
        ("320x256 b40", "320x256 b40", "320x256 b113", "320x256 b166"),
    ),
    "liver": Vector(
        (1.0, 0.767578125, 0.767578125), (432, 512, 512), 131, 3,
        ("128x128x128 b2", "128x128x128 b2", "160x224x192 b2", "192x256x256 b2"),
        CAPPED_512,
        (
            LIVER_LOW,
            LIVER_LOW,
            ((1.6047, 1.2317, 1.2317), (269.0, 319.0, 319.0), "160x224x192 b2"),
            ((1.3439, 1.0316, 1.0316), (321.0, 381.0, 381.0), "192x256x256 b2"),
        ),
    ),
    "prostate": Vector(
        (3.6, 0.625, 0.625), (20, 320, 320), 32, 3,
        ("20x320x256 b2", "20x256x256 b2", "20x320x320 b5", "20x320x320 b8"),
        ("320x320 b32", "320x320 b32", "320x320 b90", "320x320 b133"),
    ),
    "brats": Vector(
        (1.0, 1.0, 1.0), (138, 170, 138), 484, 4,
        ("128x128x128 b2", "128x128x128 b2", "160x192x160 b3", "160x192x160 b5"),
        ("192x160 b105", "192x160 b107", "192x160 b301", "192x160 b444"),
    ),
    "acdc": Vector(
        (5.0, 1.5625, 1.5625), (18, 256, 216), 200, 4,
        ("20x256x224 b4", "20x256x224 b3", "20x256x224 b10", "20x256x224 b17"),
        ("256x224 b56", "256x224 b57", "256x224 b161", "256x224 b238"),
    ),
    "pancreas": Vector(
        (2.5, 0.80273438, 0.80273438), (93, 512, 512), 281, 3,
        ("40x224x224 b2", "40x224x192 b2", "56x320x256 b2", "64x384x384 b2"),
        CAPPED_512,
        (PANCREAS_LOW, PANCREAS_LOW, None, None),
    ),
    "amos": Vector(
        (2.0, 0.68359375, 0.68359375), (232, 512, 512), 360, 16,
        ("64x160x160 b2", "64x160x160 b2", "96x224x224 b2", "128x256x256 b2"),
        ("512x512 b12", "512x512 b12", "512x512 b34", "512x512 b50"),
        (
            AMOS_LOW,
            AMOS_LOW,
            ((2.1218, 1.065, 1.065), (219.0, 329.0, 329.0), "128x224x224 b2"),
            None,
        ),
    ),
    "color 2D": Vector(
        (999.0, 1.0, 1.0), (1, 512, 512), 500, 2, (),
        ("512x512 b12", "512x512 b13", "512x512 b35", "512x512 b52"),
    ),
    "gray 2D": Vector(
        (999.0, 1.0, 1.0), (1, 1500, 1500), 100, 2, (),
        ("1280x1024 b2", "512x512 b13", "896x768 b13", "1024x1024 b13"),
    ),
    "tiny": Vector(
        (1.0, 1.0, 1.0), (16, 24, 24), 20, 2,
        ("16x24x24 b2", "16x24x24 b20", "16x24x24 b20", "16x24x24 b20"),
        ("24x24 b16", "24x24 b320", "24x24 b320", "24x24 b320"),
    ),
}  # fmt: skip

ONE, TWO, PLANE = (1, 1, 1), (2, 2, 2), (1, 2, 2)
STRIDES = {
    ("hippocampus", "default"): (ONE, *(TWO,) * 3),
    ("hippocampus", "XL"): (ONE, *(TWO,) * 3),
    ("heart", "default"): (ONE, *(TWO,) * 4, PLANE),
    ("heart", "M"): (ONE, *(TWO,) * 4, PLANE),
    ("heart", "L"): (ONE, *(TWO,) * 4, PLANE),
    ("heart", "XL"): (ONE, *(TWO,) * 5, PLANE),
    ("liver", "XL"): (ONE, *(TWO,) * 5, PLANE),
    **{
        ("prostate", column): (ONE, PLANE, PLANE, TWO, TWO, PLANE, PLANE)
        for column in FAMILIES
    },
    **{("brats", column): (ONE, *(TWO,) * 5) for column in FAMILIES},
    **{("acdc", column): (ONE, PLANE, TWO, TWO, PLANE, PLANE) for column in FAMILIES},
    **{("tiny", column): (ONE, *(TWO,) * 2) for column in FAMILIES},
}  # fmt: skip
FLAT_KERNELS = {"prostate": 2, "acdc": 1}  # leading (1, 3, 3) kernels
STAGES_2D = {"heart": 7, "liver": 8, "amos": 8}


def request_of(vector: Vector, memory_gb: float) -> Request:
    shape = tuple(float(n) for n in vector.shape)
    return Request(
        spacing=vector.spacing,
        median_shape=shape,
        dataset_voxels=prod(shape) * vector.cases,
        classes=vector.labels,
        channels=1,
        memory_gb=memory_gb,
        count_extras=False,
    )


def volume_of(vector: Vector, family: Family) -> Sizes:
    return decide_sizes(request_of(vector, family.memory_gb), family, name="3d_fullres")


def plane_of(vector: Vector, family: Family) -> Sizes:
    whole = request_of(vector, family.memory_gb)
    plane = replace(whole, spacing=whole.spacing[1:], median_shape=whole.median_shape[1:])
    return decide_sizes(plane, family, name="2d")


def written(sizes: Sizes) -> str:
    return "x".join(map(str, sizes.patch)) + f" b{sizes.batch}"


def columns(kind: str) -> list[tuple[str, str, object]]:
    """Return vector, column and expected value."""
    return [
        (name, column, expected)
        for name, vector in VECTORS.items()
        if kind == "plane" or vector.volume
        for column, expected in zip(FAMILIES, getattr(vector, kind), strict=True)
    ]


@pytest.mark.parametrize(("name", "column", "expected"), columns("volume"))
def test_volume_patch_and_batch(name: str, column: str, expected: str) -> None:
    assert written(volume_of(VECTORS[name], FAMILIES[column])) == expected


@pytest.mark.parametrize(("name", "column", "expected"), columns("plane"))
def test_plane_patch_and_batch(name: str, column: str, expected: str) -> None:
    assert written(plane_of(VECTORS[name], FAMILIES[column])) == expected


@pytest.mark.parametrize(("name", "column", "expected"), columns("low"))
def test_low_resolution(name: str, column: str, expected: Low) -> None:
    vector, family = VECTORS[name], FAMILIES[column]
    request = request_of(vector, family.memory_gb)
    full = decide_sizes(request, family, name="3d_fullres")
    found, decision = decide_low_resolution(request, full, family, vector.cases)
    if expected is None:
        assert found is None
        assert decision.value == "left out"
        return
    assert found is not None
    low, sizes = found
    assert low.spacing == pytest.approx(expected[0], abs=1e-4)
    assert low.median_shape == expected[1]
    assert written(sizes) == expected[2]


@pytest.mark.parametrize(("name", "column"), list(STRIDES))
def test_volume_strides_and_kernels(name: str, column: str) -> None:
    network = volume_of(VECTORS[name], FAMILIES[column]).network
    assert network.strides == STRIDES[name, column]
    flat = FLAT_KERNELS.get(name, 0)
    assert network.kernels == ((1, 3, 3),) * flat + ((3, 3, 3),) * (len(network.strides) - flat)


@pytest.mark.parametrize("name", list(STAGES_2D))
def test_plane_stages(name: str) -> None:
    for family in FAMILIES.values():
        network = plane_of(VECTORS[name], family).network
        assert len(network.features) == STAGES_2D[name]
        assert network.strides == ((1, 1), *((2, 2),) * (STAGES_2D[name] - 1))


def test_large_planes_have_nine_stages() -> None:
    stages = [len(plane_of(VECTORS["gray 2D"], f).network.features) for f in FAMILIES.values()]
    assert (stages[0], stages[3]) == (9, 9)


def test_hippocampus_network() -> None:
    network = volume_of(VECTORS["hippocampus"], PLAIN).network
    assert network.features == (32, 64, 128, 256)


# Spacing, patch, labels; feature-map voxels and millions of parameters: plain, residual.
CHECKS = (
    ((1.0,) * 3, (128, 128, 128), 3, (452_796_416, 31.20), (557_420_544, 102.35)),
    ((1.37, 1.25, 1.25), (80, 192, 160), 2, (528_211_200, 30.79), (651_081_600, 101.94)),
    ((1.0, 1.0), (512, 512), 3, (82_886_656, 46.33), (129_703_936, 140.02)),
    ((1.0,) * 3, (40, 56, 40), 3, (19_174_400, 5.60), (23_609_600, 25.90)),
)


@pytest.mark.parametrize(("spacing", "patch", "labels", "plain", "residual"), CHECKS)
def test_feature_maps_and_parameters(
    spacing: tuple[float, ...],
    patch: tuple[int, ...],
    labels: int,
    plain: tuple[int, float],
    residual: tuple[int, float],
) -> None:
    topology = decide_topology(spacing, patch)
    assert topology.patch == patch
    for family, (features, millions) in ((PLAIN, plain), (RESIDUAL_M, residual)):
        network = build_options(family, topology)
        assert count_features(network, patch, labels) == features
        assert count_parameters(network, 1, labels) / 1e6 == pytest.approx(millions, abs=0.005)


ACDC: list[tuple[Triple, Shape3]] = [
    *[((10.0, 1.5625, 1.5625), (9, 256, 216))] * 8,
    *[((5.0, 1.4, 1.4), (18, 256, 224))] * 2,
]


def test_coarse_axis_takes_the_tenth_percentile() -> None:
    spacings = np.array([spacing for spacing, _ in ACDC])
    shapes = np.array([shape for _, shape in ACDC])
    target, because = target_spacing(spacings, shapes)
    assert target.tolist() == [5.0, 1.5625, 1.5625]
    assert "10th percentile" in because


def test_grid_of_mixed_cases() -> None:
    grid, _ = decide_grid(make_fingerprint(ACDC))
    assert grid.axes == (0, 1, 2)
    assert grid.spacing_mm == VECTORS["acdc"].spacing
    assert grid.median_shape == VECTORS["acdc"].shape


@pytest.mark.parametrize("name", list(VECTORS))
def test_grid_of_equal_cases_is_theirs(name: str) -> None:
    vector = VECTORS[name]
    grid, _ = decide_grid(make_fingerprint([(vector.spacing, vector.shape)] * 3))
    assert grid.axes == (0, 1, 2)
    assert grid.spacing_mm == vector.spacing
    assert grid.median_shape == vector.shape
