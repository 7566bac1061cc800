"""Models of a shape on a small cube: a convolutional autoencoder, and a linear one for few cases.

Both turn a mask or probabilities into a code and further features, and a code into a mask. The
autoencoder is our reading of the liver-shape autoencoder of Tan 2021; the linear model is a
principal component analysis of signed distances (Leventon et al. 2000, Tsai et al. 2003).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from selfseg.networks.shape_grid import soft_distance

FEATURES = (16, 32, 64, 128)
GROUPS = 8
# A mask is rendered with a border about as wide as that of a sampled mask, in voxels.
BORDER = 0.5


class Encoded(NamedTuple):
    """What a model makes of shapes: (b, K) numbers, and maps (b, …) at several scales."""

    code: Tensor
    features: tuple[Tensor, ...]


class ShapeModel(Protocol):
    """A frozen model of one label's shape; maps are (b, 1, g, g, g) in [0, 1], float32.

    `margin` is that of the box around a label in which its maps are sampled, as a share of it.
    """

    margin: float

    @property
    def grid(self) -> int:
        """Voxels an axis."""
        ...

    def encode(self, maps: Tensor) -> Encoded:
        """Return code and features; differentiable."""
        ...

    def reconstruct(self, maps: Tensor) -> Tensor:
        """Return the nearest plausible shape, as probabilities."""
        ...


def code_length(cases: int) -> int:
    """Return the numbers in an autoencoder's code: four a case, from 16 to 128."""
    return min(128, max(16, 4 * cases))


class ShapeAutoencoder(nn.Module):
    """Four halvings to a code of K numbers, and back by nearest neighbors and convolutions.

    Args:
        grid: Voxels an axis, a multiple of 16.
        code: K.
        margin: See `ShapeModel`.
    """

    def __init__(self, grid: int, code: int, margin: float) -> None:
        super().__init__()
        self._grid, self.margin = grid, margin
        small = grid // 2 ** len(FEATURES)
        self._small = (FEATURES[-1], small, small, small)
        cells = FEATURES[-1] * small**3
        self.down = nn.ModuleList(
            nn.Sequential(*_layer(before, width, 2), *_layer(width, width, 1))
            for before, width in zip((1, *FEATURES), FEATURES, strict=False)
        )
        self.to_code = nn.Linear(cells, code)
        self.from_code = nn.Linear(code, cells)
        widths = FEATURES[::-1]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2), *_layer(before, width, 1), *_layer(width, width, 1)
            )
            for before, width in zip(widths, (*widths[1:], FEATURES[0]), strict=True)
        )
        self.head = nn.Conv3d(FEATURES[0], 1, 1)

    @property
    def grid(self) -> int:
        """Voxels an axis."""
        return self._grid

    def encode(self, maps: Tensor) -> Encoded:
        """Return code (b, K) and the four feature maps."""
        features = []
        x = 2 * maps - 1
        for stage in self.down:
            x = stage(x)
            features.append(x)
        return Encoded(self.to_code(x.flatten(1)), tuple(features))

    def logits(self, maps: Tensor) -> Tensor:
        """Return logits (b, 1, g, g, g) of the rendered shape."""
        x = self.from_code(self.encode(maps).code).unflatten(1, self._small)
        for stage in self.up:
            x = stage(x)
        rendered: Tensor = self.head(x)
        return rendered

    def reconstruct(self, maps: Tensor) -> Tensor:
        """Return probabilities (b, 1, g, g, g) of the rendered shape."""
        return self.logits(maps).sigmoid()


class LinearShape(nn.Module):
    """Mean and principal components of signed distances s: s ≈ μ + U·b.

    The code is b over its standard deviations, the one feature map what U does not explain of
    s − μ (its square is the first part of the penalty of shape models of this kind).

    Args:
        mean: μ in voxels of the cube, (g, g, g).
        components: U, orthonormal (K, g, g, g).
        deviations: Standard deviation of each number of b, (K,).
        margin: See `ShapeModel`.
    """

    mean: Tensor
    components: Tensor
    deviations: Tensor

    def __init__(self, mean: Tensor, components: Tensor, deviations: Tensor, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.register_buffer("deviations", deviations)

    @property
    def grid(self) -> int:
        """Voxels an axis."""
        return self.mean.shape[-1]

    def encode(self, maps: Tensor) -> Encoded:
        """Return code (b, K) and the unexplained distance (b, 1, g, g, g)."""
        rest, basis = self._from_mean(maps), self.components.flatten(1)
        numbers = rest @ basis.T
        unexplained = (rest - numbers @ basis).reshape(-1, 1, *self.mean.shape)
        return Encoded(numbers / self.deviations, (unexplained,))

    def reconstruct(self, maps: Tensor) -> Tensor:
        """Return probabilities (b, 1, g, g, g): 1/2 where μ + U·b is 0."""
        basis = self.components.flatten(1)
        distance = self.mean.flatten() + (self._from_mean(maps) @ basis.T) @ basis
        rendered: Tensor = (distance / BORDER).sigmoid()
        return rendered.reshape(-1, 1, *self.mean.shape)

    def _from_mean(self, maps: Tensor) -> Tensor:
        return (soft_distance(maps)[:, 0] - self.mean).flatten(1)


def fit_linear(maps: Tensor, *, variance: float, margin: float) -> LinearShape:
    """Return the linear model of masks (n, 1, g, g, g) with the components of a variance share.

    Closed form: a singular value decomposition of the n signed distances around their mean.
    """
    fields = soft_distance(maps)[:, 0]
    mean = fields.mean(dim=0)
    _, sizes, basis = torch.linalg.svd((fields - mean).flatten(1), full_matrices=False)
    shares = sizes.square().cumsum(0) / sizes.square().sum().clamp_min(1e-12)
    count = min(int((shares < variance).sum()) + 1, max(len(maps) - 1, 1))
    deviations = (sizes[:count] / max(len(maps) - 1, 1) ** 0.5).clamp_min(1e-3)
    return LinearShape(mean, basis[:count].reshape(count, *mean.shape), deviations, margin)


def _layer(before: int, after: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv3d(before, after, 3, stride, 1),
        nn.GroupNorm(GROUPS, after),
        nn.LeakyReLU(0.01),
    ]
