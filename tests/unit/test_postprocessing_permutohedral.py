"""The lattice against Gaussian sums over all pairs of points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfseg.postprocessing.permutohedral import build_lattice, image_features


def gaussian_sums(features: Tensor, values: Tensor) -> Tensor:
    """Return the symmetrically normalized sums over all pairs, by definition."""
    kernel = torch.exp(-0.5 * torch.cdist(features, features) ** 2)
    scale = kernel.sum(1).rsqrt()
    return scale * ((scale * values) @ kernel)


def lattice_sums(features: Tensor, values: Tensor) -> Tensor:
    lattice = build_lattice(features)
    scale = lattice(torch.ones_like(values[:1])).rsqrt()
    return scale * lattice(scale * values)


def compare(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the relative error and the correlation."""
    error = float((found - expected).norm() / expected.norm())
    pair = np.stack([found.numpy().ravel(), expected.numpy().ravel()])
    return error, float(np.corrcoef(pair)[0, 1])


@pytest.mark.parametrize(("axes", "extent"), [(1, 12.0), (2, 8.0), (3, 5.0), (4, 4.0)])
def test_random_points_have_their_gaussian_sums(axes: int, extent: float) -> None:
    generator = torch.Generator().manual_seed(axes)
    features = torch.rand((2000, axes), generator=generator, dtype=torch.float64) * extent
    values = torch.rand((2, 2000), generator=generator, dtype=torch.float64)
    error, correlation = compare(lattice_sums(features, values), gaussian_sums(features, values))
    assert error < 0.06
    assert correlation > 0.975


def test_an_intensity_edge_on_an_anisotropic_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    image = 0.1 * torch.randn((1, 6, 24, 24), generator=generator, dtype=torch.float64)
    image[..., 12:] += 3
    features = image_features(image, 4.0, (5.0, 1.0, 1.0))
    values = (image[..., :] > 1.5).to(torch.float64).flatten(1)
    values = torch.cat([values, torch.rand(values.shape, generator=generator).double()])
    error, correlation = compare(lattice_sums(features, values), gaussian_sums(features, values))
    assert error < 0.06
    assert correlation > 0.975


def test_features_of_voxels_are_places_and_intensities() -> None:
    image = torch.arange(24.0).reshape(2, 2, 2, 3)
    features = image_features(image, 2.0, (6.0, 4.0, 1.0))
    assert features.shape == (12, 5)
    # Voxel (1, 0, 2) is the 9th.
    torch.testing.assert_close(features[8], torch.tensor([3.0, 0.0, 1.0, 8.0, 20.0]))


@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.01, 50.0), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_weights_are_barycentric(axes: int, points: int, extent: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = extent * torch.randn((points, axes), generator=generator, dtype=torch.float64)
    lattice = build_lattice(features)
    assert float(lattice.weights.min()) >= -1e-6
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(points))
    assert all(len(set(row)) == axes + 1 for row in lattice.vertices.tolist())


def test_neighbors_are_mutual() -> None:
    features = 3 * torch.randn((200, 3), generator=torch.Generator().manual_seed(1))
    neighbors = build_lattice(features).neighbors
    size = neighbors.shape[2]
    for before, after in neighbors:
        here = torch.nonzero(after < size)[:, 0]
        assert len(here) > 0
        assert torch.equal(before[after[here]], here)


def test_the_order_of_points_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(2)
    features = 2 * torch.randn((300, 4), generator=generator)
    values = torch.rand((3, 300), generator=generator)
    order = torch.randperm(300, generator=generator)
    torch.testing.assert_close(
        lattice_sums(features[order], values[:, order]), lattice_sums(features, values)[:, order]
    )


def test_points_far_apart_keep_their_values() -> None:
    features = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    values = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(lattice_sums(features, values), values)


def test_keys_that_would_not_fit_are_refused() -> None:
    features = torch.zeros((2, 4))
    features[1] = 1e6
    with pytest.raises(ValueError, match="standard deviation is too small"):
        build_lattice(features)
