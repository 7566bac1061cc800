"""Gaussian sums in many dimensions on the permutohedral lattice (Adams, Baek & Davis, 2010).

A point spreads its values to the vertices of the simplex around it, these are blurred along the
lattice's directions, and the point gathers them again. Vertices are sorted integer keys instead of
a hash table: blurring looks neighbors up by bisection, and nothing has to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_KEY = 2**62


@dataclass(frozen=True)
class Lattice:
    """The lattice of n points with d features; call it with values (c, n) for their sums.

    Attributes:
        vertices: (n, d + 1) indices of the vertices around each point.
        weights: (n, d + 1) barycentric weights of the points; of each they sum to 1.
        neighbors: (d + 1, 2, m) index along each direction, both ways; m where there is none.
    """

    vertices: Tensor
    weights: Tensor
    neighbors: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Return `Σ_j exp(−½·|f_i − f_j|²)·v_j` up to a factor near 1 that depends on the place."""
        channels, points = values.shape
        size = self.neighbors.shape[2]
        sums = values.new_zeros((size + 1, channels))  # the last is what is not there
        for corner in range(self.vertices.shape[1]):
            share = self.weights[:, corner].to(values.dtype)[:, None] * values.T
            sums.index_add_(0, self.vertices[:, corner], share)
        for before, after in self.neighbors:
            sums[:size] += 0.5 * (sums[before] + sums[after])
        result = values.new_zeros((points, channels))
        for corner in range(self.vertices.shape[1]):
            share = self.weights[:, corner].to(values.dtype)[:, None]
            result.addcmul_(share, sums[self.vertices[:, corner]])
        return result.T / (1 + 2.0 ** -(self.vertices.shape[1] - 1))


def build_lattice(features: Tensor) -> Lattice:
    """Return the lattice of points with features (n, d), in units of their standard deviations.

    Raises:
        ValueError: The features span so many vertices that their keys do not fit into 63 bits.
    """
    places = _elevate(features.to(torch.float64))
    corner, ranks = _nearest(places)
    weights = _barycentric(places - corner, ranks)
    size = places.shape[1]
    # Vertex k of the simplex: k more where the residual is large, k − (d + 1) where it is small.
    steps = torch.arange(size, device=features.device)
    canonical = steps[:, None] - size * (steps[None] > size - 1 - steps[:, None])
    coordinates = corner.to(torch.int64)[:, :-1]  # the last follows: they sum to 0
    low, strides = _packing(coordinates, size)
    base = ((coordinates - low) * strides).sum(1)
    keys = torch.stack(
        [base + (canonical[k][ranks[:, :-1]] * strides).sum(1) for k in range(size)], dim=1
    )
    known, vertices = torch.unique(keys, return_inverse=True)
    return Lattice(vertices, weights.to(torch.float32), _neighbors(known, strides))


def image_features(image: Tensor, theta_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Return features (n, axes + f) of the voxels of an image (f, *D) in standard deviations."""
    axes = [
        torch.arange(size, dtype=image.dtype, device=image.device) * (step / theta_mm)
        for size, step in zip(image.shape[1:], spacing_mm, strict=True)
    ]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([places, image]).flatten(1).T


def _elevate(features: Tensor) -> Tensor:
    """Return features (n, d) in the plane of sum 0 of d + 1 dimensions (n, d + 1).

    Scaled so that the blur's standard deviation on the lattice is 1 in the units of the features.
    """
    size = features.shape[1]
    k = torch.arange(size, dtype=features.dtype, device=features.device)
    scaled = features * (math.sqrt(2 / 3) * (size + 1) / torch.sqrt((k + 1) * (k + 2)))
    suffix = scaled.flip(1).cumsum(1).flip(1)
    none = torch.zeros_like(scaled[:, :1])
    return torch.cat([suffix, none], dim=1) - torch.cat([none, scaled * (k + 1)], dim=1)


def _nearest(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest vertex of remainder 0, and the rank of each residual, largest first."""
    size = places.shape[1]
    corner = torch.round(places / size) * size
    order = torch.argsort(places - corner, dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(size, device=places.device).expand_as(order))
    # Rounding may leave the plane: then the coordinates that were rounded farthest go back.
    ranks = ranks + torch.round(corner.sum(1, keepdim=True) / size).to(torch.int64)
    above, below = ranks >= size, ranks < 0
    corner = corner - size * above.to(corner.dtype) + size * below.to(corner.dtype)
    return corner, ranks - size * above.to(torch.int64) + size * below.to(torch.int64)


def _barycentric(residuals: Tensor, ranks: Tensor) -> Tensor:
    """Return the weights (n, d + 1) of the vertices of remainder 0 to d."""
    size = residuals.shape[1]
    ordered = torch.empty_like(residuals).scatter_(1, ranks, residuals)
    falls = (ordered[:, :-1] - ordered[:, 1:]).flip(1) / size
    return torch.cat([1 - falls.sum(1, keepdim=True), falls], dim=1)


def _packing(coordinates: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return what to subtract from coordinates (n, d), and the stride of each in a key."""
    # A vertex differs from the corner by up to d, its neighbors in the blur by d more.
    margin = 2 * size
    low = coordinates.amin(0) - margin
    spans = (coordinates.amax(0) + margin - low + 1).tolist()
    if math.prod(spans) > LARGEST_KEY:
        raise ValueError(
            f"features should span fewer vertices than {LARGEST_KEY}, not {math.prod(spans)}: "
            "a standard deviation is too small for the range"
        )
    strides = [math.prod(spans[axis + 1 :]) for axis in range(len(spans))]
    return low, torch.tensor(strides, device=coordinates.device)


def _neighbors(keys: Tensor, strides: Tensor) -> Tensor:
    """Return the places (d + 1, 2, m) of the neighbors of sorted keys; m where there is none."""
    size = len(strides) + 1
    found = torch.empty((size, 2, len(keys)), dtype=torch.int64, device=keys.device)
    for direction in range(size):
        step = int(strides.sum()) - (size * int(strides[direction]) if direction < size - 1 else 0)
        for side, sign in enumerate((-1, 1)):
            wanted = keys + sign * step
            place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
            found[direction, side] = torch.where(keys[place] == wanted, place, len(keys))
    return found
