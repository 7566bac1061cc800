"""Gaussian sums over a window of voxels, on any device: the default filters of the dense CRF.

Sums run over pairs of shifted views, one offset after the other, so that memory follows voxels
times labels, not offsets. Teichmann & Cipolla (2018, arXiv:1805.04777) truncate the kernels in this
way; here a ring of coarser steps follows where the window ends before three standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Filter = Callable[[Tensor], Tensor]
Offset = tuple[int, ...]
Weighted = tuple[Offset, float]
Views = tuple[slice, ...]

RADIUS = 5
REACH = 3.0  # standard deviations; beyond are 0.3 % of a Gaussian
DILATION = 3


def window_offsets(
    theta_mm: float, spacing_mm: Sequence[float], shape: Sequence[int], radius: int
) -> list[Weighted]:
    """Return one of each pair of opposite offsets in voxels, with the voxels it stands for.

    A box of `radius` voxels at most. Along axes where it ends before three standard deviations, a
    ring of every third voxel follows as far again as `radius` allows; the box is then as large as
    the cells of three voxels around the ring leave open, so that no voxel counts twice.
    """
    full = [_reach(theta_mm, step, size) for step, size in zip(spacing_mm, shape, strict=True)]
    stride = [DILATION if reach > radius else 1 for reach in full]
    cells = [
        min(radius, reach // step) if step > 1 else reach
        for reach, step in zip(full, stride, strict=True)
    ]
    closed = (radius - DILATION // 2) // DILATION  # cells that the box covers on each side
    inner = [
        DILATION * closed + DILATION // 2 if step > 1 else reach
        for reach, step in zip(full, stride, strict=True)
    ]
    near = product(*(range(-size, size + 1) for size in inner))
    found = [(offset, 1.0) for offset in near if offset > (0,) * len(offset)]
    if any(step > 1 for step in stride):
        weight = float(math.prod(stride))
        for cell in product(*(range(-size, size + 1) for size in cells)):
            offset = tuple(place * step for place, step in zip(cell, stride, strict=True))
            is_outside = any(abs(o) > size for o, size in zip(offset, inner, strict=True))
            if is_outside and offset > (0,) * len(offset):
                found.append((offset, weight))
    return found


def window_filter(
    features: Tensor,
    theta_mm: Tensor | float,
    spacing_mm: Sequence[float],
    *,
    radius: int = RADIUS,
) -> Filter:
    """Return the sum over a window with `exp(−½·(distance² / θ² + difference of features²))`.

    Differentiable in the values, the features and θ with the memory of a single sum. The voxel
    itself takes part, as in the lattice: so the kernel stays positive definite.

    Args:
        features: (f, *D): intensities, each divided by its standard deviation.
        theta_mm: Standard deviation in mm; a scalar tensor if it is learned.
        spacing_mm: Voxel size along each axis of D.
        radius: Of the window in voxels.
    """
    theta = torch.as_tensor(theta_mm, dtype=features.dtype, device=features.device)
    offsets = window_offsets(float(theta.detach()), spacing_mm, features.shape[1:], radius)

    def apply(values: Tensor) -> Tensor:
        result: Tensor = _WindowSum.apply(  # type: ignore[no-untyped-call]
            values, features, theta**-2, offsets, tuple(spacing_mm)
        )
        return result

    return apply


def smooth_filter(theta_mm: Tensor | float, spacing_mm: Sequence[float]) -> Filter:
    """Return the sum with `exp(−½·distance² / θ²)`: along one axis after the other, to 3 θ.

    Shifted views again, not a convolution: cuDNN rounds the operands of float32 ones to 10 bits
    (TF32), and on a processor shifts take a third of the time or less.
    """

    def apply(values: Tensor) -> Tensor:
        theta = torch.as_tensor(theta_mm, dtype=values.dtype, device=values.device)
        for axis, size_mm in enumerate(spacing_mm, start=1):
            reach = _reach(float(theta.detach()), size_mm, values.shape[axis])
            total = values.clone()
            for step in range(1, reach + 1):
                weight = torch.exp(-0.5 * (step * size_mm / theta) ** 2)
                size = values.shape[axis] - step
                low, high = values.narrow(axis, 0, size), values.narrow(axis, step, size)
                total.narrow(axis, 0, size).addcmul_(high, weight)
                total.narrow(axis, step, size).addcmul_(low, weight)
            values = total
        return values

    return apply


def normalized(kernel: Filter, values: Tensor) -> Filter:
    """Return `D^-½ K D^-½` with `D = diag(K 1)` for a kernel K on the grid of values (c, *D)."""
    ones = torch.ones_like(values[:1])
    scale = kernel(ones).rsqrt()
    return lambda others: scale * kernel(scale * others)


def _reach(theta_mm: float, spacing_mm: float, size: int) -> int:
    """Return how many voxels are within three standard deviations along an axis of some size."""
    return min(math.floor(REACH * theta_mm / spacing_mm + 1e-6), size - 1)


class _WindowSum(torch.autograd.Function):
    """The windowed sum; going back repeats the loop, so nothing is kept for an offset."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        values: Tensor,
        features: Tensor,
        precision: Tensor,
        offsets: list[Weighted],
        spacing_mm: tuple[float, ...],
    ) -> Tensor:
        ctx.save_for_backward(values, features, precision)
        ctx.window = offsets, spacing_mm  # type: ignore[attr-defined]
        return _sum(values, features, precision, offsets, spacing_mm)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        values, features, precision = ctx.saved_tensors  # type: ignore[attr-defined]
        offsets, spacing_mm = ctx.window  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        # The kernel is symmetric, so its adjoint is itself.
        to_values = _sum(grad, features, precision, offsets, spacing_mm) if needs[0] else None
        if not (needs[1] or needs[2]):
            return to_values, None, None, None, None
        to_features, to_precision = torch.zeros_like(features), torch.zeros_like(precision)
        for here, there, squared_mm, weight in _pairs(offsets, values.shape[1:], spacing_mm):
            kernel = _kernel(features, precision, here, there, squared_mm)
            pull = (grad[here] * values[there] + grad[there] * values[here]).sum(0)
            pull *= kernel * weight
            slope = pull * (features[here] - features[there])
            to_features[here] -= slope
            to_features[there] += slope
            to_precision -= 0.5 * squared_mm * pull.sum()
        return to_values, to_features, to_precision, None, None


def _sum(
    values: Tensor,
    features: Tensor,
    precision: Tensor,
    offsets: list[Weighted],
    spacing_mm: tuple[float, ...],
) -> Tensor:
    """Return values (c, *D) summed with the kernel."""
    total = values.clone()
    for here, there, squared_mm, weight in _pairs(offsets, values.shape[1:], spacing_mm):
        kernel = _kernel(features, precision, here, there, squared_mm)
        if weight != 1:
            kernel *= weight
        total[here].addcmul_(kernel, values[there])
        total[there].addcmul_(kernel, values[here])
    return total


def _kernel(
    features: Tensor, precision: Tensor, here: Views, there: Views, squared_mm: float
) -> Tensor:
    """Return the kernel between the voxels of two views of the grid."""
    difference = features[here] - features[there]
    exponent = difference.square_().sum(0) if len(features) > 1 else difference.square_()[0]
    return exponent.add_(squared_mm * precision).mul_(-0.5).exp_()


def _pairs(
    offsets: list[Weighted], shape: Sequence[int], spacing_mm: tuple[float, ...]
) -> Iterator[tuple[Views, Views, float, float]]:
    """Yield voxels that have a neighbor at an offset, the neighbors, distance² and weight."""
    for offset, weight in offsets:
        if any(abs(step) >= size for step, size in zip(offset, shape, strict=True)):
            continue
        starts = [max(-step, 0) for step in offset]
        stops = [size - max(step, 0) for step, size in zip(offset, shape, strict=True)]
        ends = list(zip(starts, stops, offset, strict=True))
        here = (slice(None), *(slice(start, stop) for start, stop, _ in ends))
        there = (slice(None), *(slice(start + step, stop + step) for start, stop, step in ends))
        squared_mm = sum((step * size) ** 2 for step, size in zip(offset, spacing_mm, strict=True))
        yield here, there, squared_mm, weight
