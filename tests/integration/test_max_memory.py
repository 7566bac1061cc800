"""`predict --max-memory` is kept by the whole process, and changes no label map."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import limitedprediction
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from tinymodel import save_model, tiny_configuration, tiny_plan

from selfseg.records.dataset import Label

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not limitedprediction.STATUS.exists(), reason="the system counts no peak"),
]

GIB = 2**30
# Logits of 0.18 GiB. Of this patch one window fills a call anyway: calls of several round otherwise
# in the last digit, which may decide one voxel in a million.
LABELS, SHAPE, PATCH = 20, (64, 192, 192), (32, 64, 64)


@dataclass(frozen=True)
class Ended:
    code: int
    peak_gib: float
    text: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of 20 labels and an image that is large beside it."""
    folder = tmp_path_factory.mktemp("limits")
    configuration = tiny_configuration(spacing_mm=(1.0, 1.0, 1.0), patch=PATCH)
    names = tuple(Label(name=f"label {value}", value=value) for value in range(1, LABELS + 1))
    save_model(folder / "model", tiny_plan(configuration).model_copy(update={"labels": names}))
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        coarse = rng.normal(size=[size // 8 for size in SHAPE])
        image = np.kron(coarse, np.ones((8, 8, 8))) + 0.1 * rng.normal(size=SHAPE)
        sitk.WriteImage(
            sitk.GetImageFromArray(image.astype(np.float32)), str(folder / "in" / f"{name}.nii.gz")
        )
    return folder


def predict(place: Path, output: str, *options: str) -> Ended:
    command = [sys.executable, limitedprediction.__file__, "predict", "-i", str(place / "in")]
    command += ["-o", str(place / output), "-m", str(place / "model"), "--no-tta", "--step", "1.0"]
    command += ["--device", "cpu", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    text = done.stdout + done.stderr
    assert done.stdout, text
    return Ended(done.returncode, int(done.stdout.split()[-1]) / GIB, text)


def label_maps(place: Path, output: str) -> list[np.ndarray]:
    files = [str(place / output / f"{name}.nii.gz") for name in ("a", "b")]
    return [sitk.GetArrayFromImage(sitk.ReadImage(file)) for file in files]


def test_the_limit_is_kept_and_changes_nothing(place: Path) -> None:
    free = predict(place, "free")
    assert free.code == 0, free.text
    refused = predict(place, "refused", "--max-memory", "0.1GB")
    assert refused.code == 2, refused.text
    assert "too little" in refused.text
    assert not (place / "refused").exists()
    least = float(refused.text.split("at least --max-memory ")[1].split("GB")[0])
    assert least < free.peak_gib - 0.1, "nothing would be shown"
    kept = predict(place, "kept", "--max-memory", f"{least:.2f}GB")
    assert kept.code == 0, kept.text
    assert kept.peak_gib <= least, f"{kept.peak_gib:.3f} of {least:.2f} GiB"
    for expected, found in zip(label_maps(place, "free"), label_maps(place, "kept"), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(expected)) > 2
