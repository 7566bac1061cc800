"""Measured labels: boxes and balls whose size, extent and parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from selfseg.fingerprinting.labels import ABSENT, measure_labels, summarize_label
from selfseg.records.fingerprint import LabelFacts

SPACING = (5.0, 0.5, 2.0)


def facts(voxels: int, *, components: int = 1, share: float = 1.0) -> LabelFacts:
    return LabelFacts(
        voxels=voxels,
        volume_ml=voxels / 100,
        components=components,
        largest_share=share,
        extent_mm=(voxels / 10, 1.0, 2.0),
    )


def test_boxes() -> None:
    indices = np.zeros((10, 20, 30), np.int16)
    indices[1:4, 2:8, 5:15] = 1
    indices[8, 10:12, 20:24] = 1
    indices[6:7, 15:20, 29] = 3
    one, two, three = measure_labels(indices, 3, SPACING)
    assert two == ABSENT
    assert (one.voxels, one.components) == (188, 2)
    assert one.volume_ml == pytest.approx(188 * 5 / 1000)
    assert one.largest_share == pytest.approx(180 / 188)
    assert one.extent_mm == (8 * 5.0, 10 * 0.5, 19 * 2.0)
    assert (three.voxels, three.components, three.largest_share) == (5, 1, 1.0)
    assert three.extent_mm == (5.0, 2.5, 2.0)


def test_a_ball() -> None:
    spacing, radius = (2.0, 1.0, 1.5), 18.0
    z, y, x = ((np.arange(n) - n // 2) * s for n, s in zip((31, 51, 41), spacing, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    (ball,) = measure_labels((distance <= radius).astype(np.uint8), 1, spacing)
    assert ball.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.01)
    assert ball.components == 1
    assert ball.extent_mm == (19 * 2.0, 37 * 1.0, 25 * 1.5)


def test_corners_join_parts() -> None:
    indices = np.zeros((4, 4, 4), np.int16)
    indices[0, 0, 0] = indices[1, 1, 1] = indices[3, 3, 3] = 1
    (touching,) = measure_labels(indices, 1, (1.0, 1.0, 1.0))
    assert touching.components == 2
    assert touching.largest_share == pytest.approx(2 / 3)
    flat = np.zeros((1, 4, 4), np.int16)
    flat[0, 0, 0] = flat[0, 1, 1] = flat[0, 3, 3] = 1
    assert measure_labels(flat, 1, (1.0, 1.0, 1.0))[0].components == 2


def test_another_label_inside_a_box_does_not_count() -> None:
    indices = np.ones((3, 3, 3), np.int16)
    indices[1] = 2
    one, two = measure_labels(indices, 2, (1.0, 1.0, 1.0))
    assert (one.voxels, one.components, two.voxels) == (18, 2, 9)


def test_summary_is_over_the_cases_that_have_the_label() -> None:
    cases = [facts(10), ABSENT, facts(20, components=3, share=0.5), facts(60), ABSENT]
    summary = summarize_label("tumor", cases)
    assert summary.name == "tumor"
    assert summary.share_of_cases == pytest.approx(3 / 5)
    assert summary.median_voxels == 20
    assert summary.median_volume_ml == pytest.approx(0.2)
    assert summary.median_components == 1
    assert summary.median_largest_share == 1
    assert summary.median_extent_mm == (2.0, 1.0, 2.0)
    absent = summarize_label("none", [ABSENT])
    assert (absent.share_of_cases, absent.median_voxels) == (0, 0)
