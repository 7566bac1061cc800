"""Apply drawn transforms to a batch with torch, on any device, without waiting for the device.

All parameters come from the draws, so nothing is read back from the device. Pointwise work runs on
the drawn channels of the whole batch at once; only rotated or scaled samples are interpolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfseg.augmentation.draw import SampleDraw
from selfseg.augmentation.geometry import (
    gaussian_kernel,
    hidden_distances,
    low_resolution_table,
    low_shape,
    mirrored_indices,
    sampling_matrix,
)

_STEPS = 8192  # resolution of the vote for a label: equal within 1/8192 is a tie
_EPSILON = 1e-7

Rows = list[int]
T = TypeVar("T")


def apply_batch(
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    draws: Sequence[SampleDraw],
    patch: tuple[int, ...],
    *,
    device: torch.device,
    masked: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Apply one draw to each loaded sample.

    Args:
        images: (c, *loaded) float32 each; loaded shapes may differ.
        labels: (*loaded) int16 each, -1 outside the nonzero mask and the image.
        draws: Parameters, one for each sample.
        patch: Final shape.
        device: Where to compute; samples elsewhere are copied without blocking.
        masked: Channels that are set to 0 where the label is -1.

    Returns:
        Images (b, c, *patch) float32 and labels (b, *patch) int64 without -1.
    """
    pairs = [
        _place(
            image.to(device, non_blocking=True), label.to(device, non_blocking=True), draw, patch
        )
        for image, label, draw in zip(images, labels, draws, strict=True)
    ]
    image = torch.stack([pair[0] for pair in pairs])
    label = torch.stack([pair[1] for pair in pairs])
    _hide(image, draws)
    _add_noise(image, draws)
    channels = image.flatten(0, 1)
    for transform in (_blur, _brightness, _contrast, _low_resolution, _gamma_inverted, _gamma):
        transform(channels, draws)
    for index, draw in enumerate(draws):
        if draw.mirror:
            axes = tuple(axis - len(patch) for axis in draw.mirror)
            image[index] = image[index].flip(axes)
            label[index] = label[index].flip(axes)
    inside = label >= 0
    for channel in masked:
        image[:, channel] *= inside
    return image, label.clamp_(min=0).long()


def _place(
    image: Tensor, label: Tensor, draw: SampleDraw, patch: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Cut the center of one sample, or interpolate it if its draw is spatial."""
    if not draw.is_spatial:
        corner = [(have - want) // 2 for have, want in zip(label.shape, patch, strict=True)]
        window = tuple(slice(low, low + want) for low, want in zip(corner, patch, strict=True))
        return image[(slice(None), *window)], label[window]
    position = _source_positions(draw, tuple(label.shape), patch, image.device)
    # grid_sample wants (x, y, z) order and [-1, 1] from edge to edge of the loaded patch.
    grid = torch.stack(
        [
            (2.0 * axis + 1.0) / size - 1.0
            for axis, size in zip(reversed(position), reversed(label.shape), strict=True)
        ],
        dim=-1,
    )
    turned = F.grid_sample(image[None], grid[None], align_corners=False)[0]
    return turned, _resample_label(label, position)


def _source_positions(
    draw: SampleDraw, loaded: tuple[int, ...], patch: tuple[int, ...], device: torch.device
) -> list[Tensor]:
    """Return for each axis the source coordinate (*patch) of each output voxel.

    Sums of scaled ranges, not a matrix product: that would lose digits where TF32 is switched on.
    """
    matrix = sampling_matrix(draw, len(patch))
    ranges = [
        (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2.0).view(
            [size if axis == other else 1 for other in range(len(patch))]
        )
        for axis, size in enumerate(patch)
    ]
    positions = []
    for row, size in zip(matrix.tolist(), loaded, strict=True):
        terms = [factor * values for factor, values in zip(row, ranges, strict=True)]
        positions.append(sum(terms[1:], terms[0]) + (size - 1) / 2.0)
    return positions


def _resample_label(label: Tensor, positions: list[Tensor]) -> Tensor:
    """Return for each voxel the label with the largest linear weight, the lowest one on ties.

    Each voxel's two (four, eight) neighbors vote for their label; so the work does not depend on
    the number of labels.
    """
    padded = F.pad(label, (1, 1) * label.ndim, value=-1).flatten()
    strides = [math.prod(size + 2 for size in label.shape[a + 1 :]) for a in range(label.ndim)]
    base = torch.zeros_like(positions[0], dtype=torch.int64)
    shares = []
    for position, size, stride in zip(positions, label.shape, strides, strict=True):
        shifted = (position + 1.0).clamp_(0.0, size + 1.0)
        corner = shifted.floor().clamp_(max=size)
        shares.append(shifted.sub_(corner))
        base += corner.long() * stride
    sides = list(itertools.product((0, 1), repeat=label.ndim))
    labels = [padded[base + int(np.dot(side, strides))] for side in sides]
    weights = [
        torch.stack([f if s else 1.0 - f for f, s in zip(shares, side, strict=True)]).prod(0)
        for side in sides
    ]
    best = torch.full_like(base, -1, dtype=torch.int32)
    for candidate in labels:
        score = torch.zeros_like(weights[0])
        for other, weight in zip(labels, weights, strict=True):
            score += weight * (other == candidate)
        # Score and label in one number: the larger score wins, then the lower label.
        code = (score * _STEPS).round_().int() * 65536 + (65534 - candidate.int())
        best = torch.maximum(best, code)
    return (65534 - (best & 65535)).to(label.dtype)


def _hide(image: Tensor, draws: Sequence[SampleDraw]) -> None:
    """Show another place of a sample's patch within its hidden slab, in place."""
    for sample, draw in zip(image, draws, strict=True):
        if draw.hidden is not None:
            parts = hidden_distances(draw.hidden, tuple(sample.shape[1:]))
            distance = sum((_upload(part, sample) for part in parts[1:]), _upload(parts[0], sample))
            other = sample.roll(draw.hidden.shift, tuple(range(1, sample.ndim)))
            within = distance.abs() <= draw.hidden.half_width
            sample.copy_(torch.where(within, other, sample))


def _add_noise(image: Tensor, draws: Sequence[SampleDraw]) -> None:
    for sample, draw in zip(image, draws, strict=True):
        if draw.noise_std is not None:
            stream = torch.Generator(sample.device).manual_seed(draw.noise_seed)
            noise = torch.randn(sample.shape, generator=stream, device=sample.device)
            sample.add_(noise, alpha=draw.noise_std)


def _blur(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    rows, sigmas = _drawn(channels, draws, lambda draw: draw.blur or None)
    if not rows:
        return
    index = _indices(rows, channels)
    part = channels[index]
    for axis in range(part.ndim - 1):
        kernels = [gaussian_kernel(sigma[axis]) for sigma in sigmas]
        radius = max(len(kernel) for kernel in kernels) // 2
        table = np.stack([np.pad(k, radius - len(k) // 2) for k in kernels])
        weights = _upload(table, part)
        blurred = torch.zeros_like(part)
        for tap, shift in enumerate(range(-radius, radius + 1)):
            source = _upload(mirrored_indices(part.shape[axis + 1], shift), part)
            blurred += part.index_select(axis + 1, source) * _per_row(weights[:, tap], part)
        part = blurred
    channels[index] = part


def _brightness(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    rows, factors = _drawn(channels, draws, lambda draw: draw.brightness)
    if rows:
        index = _indices(rows, channels)
        channels[index] = channels[index] * _per_row(_floats(factors, channels), channels)


def _contrast(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    rows, factors = _drawn(channels, draws, lambda draw: draw.contrast)
    if not rows:
        return
    index = _indices(rows, channels)
    part = channels[index]
    axes = tuple(range(1, part.ndim))
    low, high = part.amin(axes, keepdim=True), part.amax(axes, keepdim=True)
    mean = part.mean(axes, keepdim=True)
    part = (part - mean) * _per_row(_floats(factors, part), part) + mean
    channels[index] = torch.minimum(torch.maximum(part, low), high)


def _low_resolution(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    rows, zooms = _drawn(channels, draws, lambda draw: draw.low_resolution or None)
    if not rows:
        return
    each = len(channels) // len(draws)
    shape = tuple(channels.shape[1:])
    low = [
        low_shape(shape, zoom, keep_first=draws[row // each].dummy_2d)
        for row, zoom in zip(rows, zooms, strict=True)
    ]
    index = _indices(rows, channels)
    part = channels[index]
    for axis, size in enumerate(shape):
        tables = [low_resolution_table(size, few[axis]) for few in low]
        view = [len(rows), *(size if other == axis else 1 for other in range(len(shape)))]
        below, above, share = (
            _upload(np.stack(column), part).view(view) for column in zip(*tables, strict=True)
        )
        part = torch.lerp(
            part.gather(axis + 1, below.expand_as(part)),
            part.gather(axis + 1, above.expand_as(part)),
            share,
        )
    channels[index] = part


def _gamma_inverted(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    _power(channels, *_drawn(channels, draws, lambda draw: draw.gamma_inverted), sign=-1.0)


def _gamma(channels: Tensor, draws: Sequence[SampleDraw]) -> None:
    _power(channels, *_drawn(channels, draws, lambda draw: draw.gamma), sign=1.0)


def _power(channels: Tensor, rows: Rows, exponents: Sequence[float], *, sign: float) -> None:
    """Raise channels, scaled to [0, 1], to a power; restore range, mean and deviation."""
    if not rows:
        return
    index = _indices(rows, channels)
    part = channels[index] * sign
    axes = tuple(range(1, part.ndim))
    std, mean = torch.std_mean(part, axes, correction=0, keepdim=True)
    low = part.amin(axes, keepdim=True)
    extent = part.amax(axes, keepdim=True) - low
    part = ((part - low) / (extent + _EPSILON)) ** _per_row(_floats(exponents, part), part)
    part = part * extent + low
    std_now, mean_now = torch.std_mean(part, axes, correction=0, keepdim=True)
    part = (part - mean_now) * (std / std_now.clamp(min=_EPSILON)) + mean
    channels[index] = part * sign


def _drawn(
    channels: Tensor,
    draws: Sequence[SampleDraw],
    values: Callable[[SampleDraw], Sequence[T | None] | None],
) -> tuple[Rows, list[T]]:
    """Return the rows of (b · c, …) that a transform applies to, with their parameters."""
    each = len(channels) // len(draws)
    found = [
        (index * each + channel, value)
        for index, draw in enumerate(draws)
        for channel, value in enumerate(values(draw) or ())
        if value is not None
    ]
    return [row for row, _ in found], [value for _, value in found]


def _indices(rows: Rows, like: Tensor) -> Tensor:
    return torch.tensor(rows).to(like.device, non_blocking=True)


def _floats(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(like.device, non_blocking=True)


def _upload(table: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table)).to(like.device, non_blocking=True)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value a row so that it broadcasts over the row."""
    return values.view(-1, *(1,) * (like.ndim - 1))
