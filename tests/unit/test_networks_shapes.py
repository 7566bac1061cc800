"""Shape models: the frame, signed distances, the linear model in closed form, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapedata import (
    GRID,
    MARGIN,
    boxed,
    ellipsoid,
    linear_model,
    organ_maps,
    untrained_autoencoder,
)

from selfseg.errors import ModelError
from selfseg.networks.shape_autoencoder import (
    LinearShape,
    ShapeAutoencoder,
    code_length,
    fit_linear,
)
from selfseg.networks.shape_files import load_accepted, save_tensors
from selfseg.networks.shape_grid import ShapeBox, bounds, dice, sample_box, soft_distance
from selfseg.records.shape_model import ShapeModelRecord, ShapeModels


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_bounds_are_those_of_the_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 3, 4, 5, 6)) < rng.choice([0.0, 0.02, 0.5])
    found = bounds(torch.from_numpy(masks)).numpy()
    for mask, (low, high) in zip(masks.reshape(-1, 4, 5, 6), found.reshape(-1, 2, 3), strict=True):
        where = np.argwhere(mask)
        if len(where):
            np.testing.assert_array_equal(low, where.min(0))
            np.testing.assert_array_equal(high, where.max(0) + 1)
        else:
            assert not low.any()
            assert not high.any()


@pytest.mark.parametrize("size", [255, 256, 320])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bounds_of_long_axes(size: int, axis: int) -> None:
    shape, low, high = [4, 5, 6], [0, 0, 0], [4, 5, 6]
    shape[axis], low[axis], high[axis] = size, size - 100, size - 2
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    assert bounds(mask).tolist() == [low, high]


@pytest.mark.parametrize("factor", [1, 3])
def test_a_box_is_sampled_at_the_centers_of_its_cells(factor: int) -> None:
    """A linear ramp keeps its values, also where voxels are averaged and beyond the first voxel."""
    size = 16 * factor
    z, y, x = np.indices((size + 8,) * 3) + 0.5
    maps = torch.from_numpy(np.stack([z, 2 * y - x])).float()
    box = ShapeBox((2.0, 3.0, 4.0), (2.0 + size, 3.0 + size, 4.0 + size))
    found = sample_box(maps, box, 16)
    cells = (np.arange(16) + 0.5) * factor
    expected = np.stack(np.meshgrid(cells + 2, cells + 3, cells + 4, indexing="ij"))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1], 2 * expected[1] - expected[2], atol=1e-3)


def test_beyond_the_maps_there_is_nothing_and_position_does_not_matter() -> None:
    """The frame moves with the organ; a box that reaches beyond the image is filled with 0."""
    here = boxed(ellipsoid((30, 30, 30), (9, 10, 11), (6, 7, 8)))
    there = boxed(ellipsoid((30, 30, 30), (15, 18, 14), (6, 7, 8)))
    torch.testing.assert_close(here, there)
    edge = boxed(np.ones((9, 9, 9), bool))
    assert float(edge[0, 0, 0].max()) < 0.2
    assert float(edge[0, 0, 8, 8, 8]) == pytest.approx(1)


def test_soft_distance_is_the_distance_to_a_plane() -> None:
    maps = torch.zeros(1, 1, 16, 16, 16)
    maps[:, :, 8:] = 1
    found = soft_distance(maps)[0, 0, :, 8, 8]
    expected = np.arange(16) + 0.5 - 8
    near = np.abs(expected) < 2
    np.testing.assert_allclose(found[near], expected[near], atol=0.08)
    assert (np.sign(found.numpy()) == np.sign(expected)).sum() >= 14  # 0 beyond the border


def test_the_linear_model_is_the_principal_component_analysis() -> None:
    maps = organ_maps(6)
    model = fit_linear(maps, variance=0.9, margin=MARGIN)
    fields = soft_distance(maps).flatten(1).double().numpy()
    centered = fields - fields.mean(0)
    values, vectors = np.linalg.eigh(centered @ centered.T)
    order = np.argsort(values)[::-1]
    shares = np.cumsum(values[order]) / values.sum()
    count = int(np.searchsorted(shares, 0.9)) + 1
    assert len(model.deviations) == count
    np.testing.assert_allclose(
        model.deviations, np.sqrt(values[order][:count] / (len(maps) - 1)), rtol=1e-3
    )
    basis = model.components.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), atol=1e-4, rtol=0)
    encoded = model.encode(maps)
    scores = vectors[:, order[:count]] * np.sqrt(len(maps) - 1)
    np.testing.assert_allclose(encoded.code.abs().numpy(), np.abs(scores), atol=2e-3)
    whole = encoded.code * model.deviations @ basis + encoded.features[0].flatten(1)
    torch.testing.assert_close(
        whole + model.mean.flatten(), soft_distance(maps).flatten(1), atol=1e-3, rtol=0
    )


def test_a_linear_model_mends_a_shape_it_was_not_made_from() -> None:
    maps = organ_maps(12)
    model = fit_linear(maps[:10], variance=0.95, margin=MARGIN)
    clean = maps[10:]
    broken = clean.clone()
    broken[:, :, 6:9, 8:] = 0
    before, after = dice(broken, clean), dice(model.reconstruct(broken), clean)
    assert float(dice(model.reconstruct(clean), clean).min()) > 0.93
    assert float((after - before).min()) > 0.01
    # the more is broken, the less like its mask the rendering is
    assert float(dice(broken, model.reconstruct(broken)).max()) < 0.95


@pytest.mark.parametrize(("cases", "code"), [(11, 44), (2, 16), (200, 128)])
def test_the_code_is_four_numbers_a_case_within_limits(cases: int, code: int) -> None:
    assert code_length(cases) == code


def test_an_autoencoder_gives_a_code_four_maps_and_a_mask() -> None:
    model, maps = untrained_autoencoder(), organ_maps(2)
    encoded = model.encode(maps)
    assert encoded.code.shape == (2, 16)
    assert [tuple(part.shape[1:3]) for part in encoded.features] == [
        (16, 8),
        (32, 4),
        (64, 2),
        (128, 1),
    ]
    assert model.reconstruct(maps).shape == maps.shape


def record(*accepted: bool) -> ShapeModels:
    models = tuple(
        ShapeModelRecord(
            name=f"label {index}",
            kind="linear" if index == 0 else "autoencoder",
            code=16,
            cases=("a",),
            held_out=(0.96,),
            dice=0.96,
            low=0.95,
            accepted=ok,
            because="",
        )
        for index, ok in enumerate(accepted)
    )
    return ShapeModels(
        source="", grid=GRID, box_margin=MARGIN, axes=(0, 1, 2), models=models, seconds=0.0
    )


def test_models_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path, maps = tmp_path / "shapes.safetensors", organ_maps(2, seed=5)
    models: dict[int, LinearShape | ShapeAutoencoder] = {
        0: linear_model(),
        1: untrained_autoencoder(),
    }
    save_tensors(models, path)
    cpu = torch.device("cpu")
    found = load_accepted(record(True, True), path, cpu)
    for index, (item, model) in enumerate(found):
        assert item.name == f"label {index}"
        assert model.margin == MARGIN
        torch.testing.assert_close(model.encode(maps).code, models[index].encode(maps).code)
        torch.testing.assert_close(model.reconstruct(maps), models[index].reconstruct(maps))
    assert [item.name for item, _ in load_accepted(record(False, True), path, cpu)] == ["label 1"]
    assert load_accepted(record(False), tmp_path / "missing", cpu) == ()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="safetensors"):
        load_accepted(record(True, True), path, cpu)


def test_a_file_that_does_not_fit_its_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shapes.safetensors"
    save_tensors({0: linear_model()}, path)
    with pytest.raises(ModelError, match="does not fit"):
        load_accepted(record(True, True), path, torch.device("cpu"))
