"""Deep features are the mean of the deepest feature map inside the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan

from selfseg.errors import ModelError
from selfseg.inference.bottleneck import check_pooling, pooled_bottleneck
from selfseg.inference.model import Model, load_model
from selfseg.io.images import write_volume
from selfseg.records.dataset import Case, File
from selfseg.records.geometry import Geometry, Orientation

SPACING = (2.0, 1.0, 1.0)


def write(folder: Path, array: np.ndarray) -> Case:
    z, y, x = array.shape
    geometry = Geometry(shape=(z, y, x), spacing_mm=SPACING)
    path = folder / "a.nii.gz"
    write_volume(array.astype(np.float32), native=geometry, orientation=Orientation(), path=path)
    return Case(id="a", images=(File(path=str(path)),))


def load(folder: Path, name: str = "3d_fullres", folds: tuple[str, ...] = ("0",)) -> Model:
    spacing = (None, 1.0, 1.0) if name == "2d" else SPACING
    configuration = tiny_configuration("2d" if name == "2d" else "3d_fullres", spacing_mm=spacing)
    save_model(folder / "model", tiny_plan(configuration), folds=folds)
    return load_model(folder / "model", device=torch.device("cpu"))


def encoded(model: Model, window: np.ndarray) -> np.ndarray:
    features = torch.from_numpy(window.astype(np.float32))[None, None]
    with torch.no_grad():
        for stage in check_pooling(model):
            features = stage(features)
    return np.asarray(features[0].double().numpy())


def noise(*shape: int) -> np.ndarray:
    return 1 + np.random.default_rng(0).random(shape)


def test_features_are_the_mean_of_covered_cells(tmp_path: Path) -> None:
    model, image = load(tmp_path), noise(8, 16, 16)
    case = write(tmp_path, image)
    deepest = encoded(model, image)  # (8, 4, 8, 8): a cell has 2 x 2 x 2 voxels
    everything = np.ones(image.shape, dtype=bool)
    corner = np.zeros(image.shape, dtype=bool)
    corner[0:2, 0:2, 0:3] = True  # one cell, and half of its neighbor
    found = pooled_bottleneck(model, case, [everything, corner])
    assert found[0] == pytest.approx(deepest.mean(axis=(1, 2, 3)), abs=1e-5)
    expected = (deepest[:, 0, 0, 0] + 0.5 * deepest[:, 0, 0, 1]) / 1.5
    assert found[1] == pytest.approx(expected, abs=1e-5)


def test_the_window_lies_around_the_lesion(tmp_path: Path) -> None:
    model, image = load(tmp_path), noise(8, 40, 36)
    mask = np.zeros(image.shape, dtype=bool)
    mask[2:6, 10:14, 30:34] = True
    # Around y = 12: from 4 on. Around x = 32: 24 on, but the image ends at 36: from 20 on.
    deepest = encoded(model, image[:, 4:20, 20:36])
    found = pooled_bottleneck(model, write(tmp_path, image), [mask])
    assert found[0] == pytest.approx(deepest[:, 1:3, 3:5, 5:7].mean(axis=(1, 2, 3)), abs=1e-5)


def test_images_smaller_than_a_patch_are_padded_and_larger_lesions_widen_it(
    tmp_path: Path,
) -> None:
    model = load(tmp_path)
    small = noise(4, 10, 16)
    found = pooled_bottleneck(model, write(tmp_path, small), [np.ones(small.shape, dtype=bool)])
    padded = np.pad(small, ((2, 2), (3, 3), (0, 0)))
    share = np.pad(np.ones(small.shape), ((2, 2), (3, 3), (0, 0)))
    cells = share.reshape(4, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    expected = (encoded(model, padded) * cells).sum(axis=(1, 2, 3)) / cells.sum()
    assert found[0] == pytest.approx(expected, abs=1e-5)
    large = noise(8, 31, 16)
    found = pooled_bottleneck(model, write(tmp_path, large), [np.ones(large.shape, dtype=bool)])
    assert np.isfinite(found).all()


def test_a_2d_network_sees_slice_by_slice(tmp_path: Path) -> None:
    model, image = load(tmp_path, "2d"), noise(3, 16, 16)
    mask = np.zeros(image.shape, dtype=bool)
    mask[1:3, 0:4, 0:4] = True
    deepest = [encoded(model, image[z])[:, :2, :2] for z in (1, 2)]
    found = pooled_bottleneck(model, write(tmp_path, image), [mask])
    assert found[0] == pytest.approx(np.mean(deepest, axis=(0, 2, 3)), abs=1e-5)


def test_masks_run_as_the_image_does_where_the_plan_keeps_stored_axes(tmp_path: Path) -> None:
    configuration = tiny_configuration(spacing_mm=SPACING)
    stored = configuration.preprocessing.model_copy(update={"orientation": "stored"})
    configuration = configuration.model_copy(update={"preprocessing": stored})
    save_model(tmp_path / "model", tiny_plan(configuration))
    model = load_model(tmp_path / "model", device=torch.device("cpu"))
    image = noise(8, 16, 16)  # canonical; in the file y and x run backwards
    native = Geometry(
        shape=(8, 16, 16),
        spacing_mm=SPACING,
        direction=((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
    )
    turned, path = Orientation(flips=(False, True, True)), tmp_path / "a.nrrd"
    write_volume(image.astype(np.float32), native=native, orientation=turned, path=path)
    corner = np.zeros(image.shape, dtype=bool)
    corner[0:2, 0:2, 0:4] = True
    case = Case(id="a", images=(File(path=str(path)),))
    deepest = encoded(model, np.flip(image, (1, 2)).copy())
    found = pooled_bottleneck(model, case, [corner])
    assert found[0] == pytest.approx(deepest[:, 0, 7, 6:].mean(axis=1), abs=1e-5)


def test_a_mask_that_vanishes_on_the_grid_keeps_a_voxel(tmp_path: Path) -> None:
    configuration = tiny_configuration(spacing_mm=(8.0, 4.0, 4.0), patch=(4, 8, 8))
    save_model(tmp_path / "model", tiny_plan(configuration))
    model = load_model(tmp_path / "model", device=torch.device("cpu"))
    image = noise(16, 32, 32)
    mask = np.zeros(image.shape, dtype=bool)
    mask[5, 5, 5] = True
    assert np.isfinite(pooled_bottleneck(model, write(tmp_path, image), [mask])).all()


def test_several_folds_are_refused(tmp_path: Path) -> None:
    model = load(tmp_path, folds=("0", "1"))
    with pytest.raises(ModelError, match="features of 2 folds mean different things"):
        check_pooling(model)
