"""What deciding before loading, holding data in memory and own interpolation are worth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from batchgenerators.augmentations.spatial_transformations import augment_spatial
from trainingdata import make_configuration, make_folder

from selfseg.augmentation.cpu import apply_cpu
from selfseg.augmentation.draw import SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.loading.patches import CaseFolder
from selfseg.loading.sampling import random_corner

pytestmark = pytest.mark.bench

PATCH = (40, 56, 40)
NNUNET_LOADS = (73, 80, 64)  # nnunet.md 1.11: this patch at 30 degrees
SHAPE = (80, 110, 90)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the best of some runs."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def load(cases: CaseFolder, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    for shape in shapes:
        cases.cut(0, random_corner(shape, PATCH, SHAPE, rng), shape)


def test_deciding_before_loading(tmp_path: Path) -> None:
    cases = CaseFolder(tmp_path, make_folder(tmp_path, cases=1, shape=SHAPE))
    options = make_configuration(PATCH).augmentation
    rng = np.random.default_rng(0)
    draws = [draw_sample(options, channels=1, patch=PATCH, rng=rng) for _ in range(60)]
    ours = [loaded_patch(draw, PATCH) for draw in draws]
    voxels = np.prod(NNUNET_LOADS) * len(ours) / np.prod(ours, axis=1).sum()
    ratio = seconds(lambda: load(cases, [NNUNET_LOADS] * len(ours))) / seconds(
        lambda: load(cases, ours)
    )
    cases.hold_in_memory()
    held = seconds(lambda: load(cases, [NNUNET_LOADS] * len(ours))) / seconds(
        lambda: load(cases, ours)
    )
    sys.stdout.write(
        f"\nfewer voxels {voxels:.2f}×, faster from files {ratio:.2f}×, from memory {held:.2f}×\n"
    )
    assert voxels > 2
    assert ratio > 1.2
    assert held > 1.2


def test_holding_cases_in_memory(tmp_path: Path) -> None:
    files = CaseFolder(tmp_path, make_folder(tmp_path, cases=1, shape=SHAPE))
    memory = CaseFolder(tmp_path, files.ids)
    memory.hold_in_memory()
    ratio = seconds(lambda: load(files, [PATCH] * 50)) / seconds(lambda: load(memory, [PATCH] * 50))
    sys.stdout.write(f"\npatches from memory: {ratio:.1f}× faster than from files\n")
    assert ratio > 1.5


def test_rotated_samples_against_batchgenerators() -> None:
    draw = SampleDraw(angles=(0.3, 0.2, -0.4), scale=1.1)
    rng = np.random.default_rng(0)
    shape = loaded_patch(draw, PATCH)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    label = np.zeros(shape, np.int16)
    label[10:30, 10:40, 10:30] = 1
    label[15:25, 15:30, 15:25] = 2

    def theirs() -> object:
        return augment_spatial(
            image[None],
            label[None, None],
            PATCH,
            do_elastic_deform=False,
            angle_x=(0.3, 0.3),
            angle_y=(0.2, 0.2),
            angle_z=(-0.4, -0.4),
            scale=(1.1, 1.1),
            border_mode_data="constant",
            order_data=1,
            order_seg=1,
            random_crop=False,
        )

    ratio = seconds(theirs) / seconds(lambda: apply_cpu(image, label, draw, PATCH))
    sys.stdout.write(
        f"\nrotated sample: {ratio:.1f}× faster than batchgenerators' augment_spatial\n"
    )
    assert ratio > 2
