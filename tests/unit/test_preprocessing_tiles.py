"""Parts in which logits are compared: all of them once, small on a CPU, few on a device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from selfseg.preprocessing import tiles
from selfseg.preprocessing.tiles import slabs

CT = (118, 480, 512, 512)


def parts_of(
    shape: tuple[int, ...], kind: str, *, max_gib: float = 1.0, classes: int = 1
) -> list[tuple[slice, slice]]:
    source = SimpleNamespace(shape=shape, device=torch.device(kind))
    return list(slabs(source, max_gib, classes=classes))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (3, 40, 600, 700), (3, 0, 4, 4), (3, 4, 4, 0)])
@pytest.mark.parametrize("classes", [1, 3, 118])
def test_parts_are_all_of_it_once(kind: str, shape: tuple[int, ...], classes: int) -> None:
    seen = np.zeros(shape[1:3], int)
    for part in parts_of(shape, kind, classes=classes, max_gib=0.01):
        seen[part] += 1
    assert (seen == 1).all()


def test_a_device_gets_few_large_parts_within_the_limit_of_memory() -> None:
    assert len(parts_of(CT, "cpu")) > 900
    assert len(parts_of(CT, "cuda")) <= 12
    for max_gib in (0.01, 0.05, 8.0):
        z, y = parts_of(CT, "cuda", max_gib=max_gib)[0]
        voxels = (z.stop - z.start) * (y.stop - y.start) * CT[3]
        assert voxels * tiles.COMPARED_BYTES <= max_gib * 2**30
    z, y = parts_of(CT, "cuda", classes=118)[0]
    assert (z.stop - z.start) * (y.stop - y.start) * CT[3] * 118 * 20 <= 2**28


def test_parts_on_a_cpu_fit_into_its_cache() -> None:
    for classes in (1, 118):
        z, y = parts_of(CT, "cpu", classes=classes)[0]
        scores = (z.stop - z.start) * (y.stop - y.start) * CT[3] * classes
        assert tiles.SCORES_AT_ONCE / 2 <= scores <= tiles.SCORES_AT_ONCE
