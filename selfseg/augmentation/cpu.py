"""Apply drawn transforms to one sample on the CPU, in float32.

batchgenerators does contrast, brightness and low resolution. Its other transforms cannot be told
their exact parameters (they draw inside), so these are numpy, scipy and torch's grid sampling.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import numpy.typing as npt
import torch
from batchgenerators.augmentations.color_augmentations import (
    augment_brightness_multiplicative,
    augment_contrast,
)
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from scipy import ndimage
from torch.nn import functional

from selfseg.augmentation.draw import Hidden, SampleDraw
from selfseg.augmentation.geometry import (
    gaussian_kernel,
    hidden_distances,
    low_shape,
    sampling_matrix,
)
from selfseg.records.loss_maps import OUTSIDE_IMAGE

ImageArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int16]

OUTSIDE = -1
_MIXED = np.iinfo(np.int16).min
_STEPS = 8192  # resolution of the vote for a label: equal within 1/8192 is a tie
_SURELY_INSIDE = 0.999  # share of an interpolated voxel, but for rounding
_EPSILON = np.float32(1e-7)


def apply_cpu(
    image: ImageArray,
    label: LabelArray,
    draw: SampleDraw,
    patch: tuple[int, ...],
    *,
    masked: Sequence[int] = (),
) -> tuple[ImageArray, LabelArray]:
    """Apply one draw to one loaded sample.

    Args:
        image: (c, *loaded) image; not changed.
        label: (*loaded) label indices, -1 outside the nonzero mask and the image; not changed.
        draw: Parameters.
        patch: Final shape.
        masked: Channels that are set to 0 where the label is -1.

    Returns:
        New image (c, *patch) and label (*patch) without -1.
    """
    if draw.is_spatial:
        image, label = _resample(image, label, draw, patch)
    else:
        window = _center(label.shape, patch)
        image, label = image[window].copy(), label[window]
    if draw.hidden is not None:
        _hide(image, draw.hidden)
    if draw.noise_std is not None:
        stream = np.random.Generator(np.random.SFC64(draw.noise_seed))
        noise = stream.standard_normal(image.shape, dtype=np.float32)
        image += np.multiply(noise, np.float32(draw.noise_std), out=noise)
    _filter_channels(image, draw)
    image = np.flip(image, tuple(axis + 1 for axis in draw.mirror))
    label = np.flip(label, draw.mirror)
    if masked:
        image = np.ascontiguousarray(image)
        image[list(masked)] *= label >= 0
    return np.ascontiguousarray(image), np.maximum(label, 0)


def place_label(label: LabelArray, draw: SampleDraw, patch: tuple[int, ...]) -> LabelArray:
    """Cut or interpolate a second label map as `apply_cpu` does the first; (*patch), 0 outside."""
    if draw.is_spatial:
        label = _resample_label(label, _source_positions(draw, label.shape, patch))
    else:
        label = label[_center(label.shape, patch)]
    return np.maximum(np.flip(label, draw.mirror), 0)


def place_maps(
    maps: LabelArray, draw: SampleDraw, patch: tuple[int, ...], *, linear: Sequence[bool]
) -> LabelArray:
    """Cut or interpolate further maps of a label map as `apply_cpu` does the label map.

    Args:
        maps: (m, *loaded) whole numbers; `OUTSIDE_IMAGE` where there is no image.
        draw: The spatial parameters are used.
        patch: Final shape.
        linear: For each map whether it is interpolated (distances) or the nearest voxel is taken.

    Returns:
        (m, *patch); outside the image, and outside what was loaded, interpolated maps have
        `OUTSIDE_IMAGE` and others 0.
    """
    if draw.is_spatial:
        grid = _sampling_grid(draw, maps.shape[1:], patch)
        placed = np.stack(
            [_turned(part, grid, smooth) for part, smooth in zip(maps, linear, strict=True)]
        )
    else:
        placed = maps[_center(maps.shape[1:], patch)].copy()
        whole = ~np.array(linear)
        placed[whole] = np.where(placed[whole] == OUTSIDE_IMAGE, 0, placed[whole])
    return np.ascontiguousarray(np.flip(placed, tuple(axis + 1 for axis in draw.mirror)))


def _turned(part: LabelArray, grid: torch.Tensor, smooth: bool) -> LabelArray:
    """Return one map at the positions of a grid."""
    known = part != OUTSIDE_IMAGE
    source = torch.from_numpy(np.where(known, part, 0).astype(np.float32))[None, None]
    if not smooth:
        turned = functional.grid_sample(source, grid, mode="nearest", align_corners=False)
        return turned[0, 0].numpy().astype(np.int16)
    share = torch.from_numpy(known.astype(np.float32))[None, None]
    both = torch.cat((source, share), dim=1)
    turned, share = functional.grid_sample(both, grid, align_corners=False)[0]
    # A voxel that is partly outside has no distance: what it would be mixed with is not known.
    distance = (turned / share.clamp_min(_SURELY_INSIDE)).round()
    distance[share < _SURELY_INSIDE] = OUTSIDE_IMAGE
    placed: LabelArray = distance.short().numpy()
    return placed


def _center(shape: Sequence[int], patch: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Return the index of the center of the trailing axes."""
    corner = [(have - want) // 2 for have, want in zip(shape, patch, strict=True)]
    return (..., *(slice(low, low + want) for low, want in zip(corner, patch, strict=True)))


def _hide(image: ImageArray, hidden: Hidden) -> None:
    """Show another place of (c, *patch) within a slab, in place."""
    parts = hidden_distances(hidden, image.shape[1:])
    within = np.abs(functools.reduce(np.add, parts)) <= np.float32(hidden.half_width)
    other = np.roll(image, hidden.shift, tuple(range(1, image.ndim)))
    image[:, within] = other[:, within]


def _filter_channels(image: ImageArray, draw: SampleDraw) -> None:
    """Blur, brightness, contrast, low resolution and both gammas, in place, channel by channel."""
    for channel in range(len(image)):
        view = image[channel : channel + 1]
        if draw.blur and (sigmas := draw.blur[channel]) is not None:
            for axis, sigma in enumerate(sigmas, start=1):
                view[:] = ndimage.correlate1d(view, gaussian_kernel(sigma), axis, mode="mirror")
        if draw.brightness is not None:
            factor = draw.brightness[channel]
            augment_brightness_multiplicative(view, (factor, factor), per_channel=False)
        if draw.contrast is not None:
            augment_contrast(view, lambda factor=draw.contrast[channel]: factor)
        if draw.low_resolution and (zoom := draw.low_resolution[channel]) is not None:
            _lower_resolution(view, zoom, draw)
        if draw.gamma_inverted is not None:
            np.negative(view, out=view)
            _gamma(view, draw.gamma_inverted[channel])
            np.negative(view, out=view)
        if draw.gamma is not None:
            _gamma(view, draw.gamma[channel])


def _lower_resolution(view: ImageArray, zoom: float, draw: SampleDraw) -> None:
    """Sample one channel down (nearest) and up (linear), in place."""
    shape = view.shape[1:]
    low = low_shape(shape, zoom, keep_first=draw.dummy_2d)
    per_axis = [(few / size, few / size) for few, size in zip(low, shape, strict=True)]
    augment_linear_downsampling_scipy(view, per_axis, order_downsample=0, order_upsample=1)


def _gamma(view: ImageArray, exponent: float) -> None:
    """Raise one channel, scaled to [0, 1], to a power; restore range, mean and deviation."""
    mean, std = view.mean(), view.std()
    low = view.min()
    extent = view.max() - low
    view -= low
    view /= extent + _EPSILON
    np.power(view, np.float32(exponent), out=view)
    view *= extent
    view += low
    view -= view.mean()
    view *= std / max(view.std(), _EPSILON)
    view += mean


def _resample(
    image: ImageArray, label: LabelArray, draw: SampleDraw, patch: tuple[int, ...]
) -> tuple[ImageArray, LabelArray]:
    """Rotate and scale about the center: linear for the image, linear vote for the label."""
    positions = _source_positions(draw, label.shape, patch)
    turned = functional.grid_sample(
        torch.from_numpy(image)[None], _grid(positions, label.shape), align_corners=False
    )
    return turned[0].numpy(), _resample_label(label, positions)


def _sampling_grid(
    draw: SampleDraw, loaded: tuple[int, ...], patch: tuple[int, ...]
) -> torch.Tensor:
    return _grid(_source_positions(draw, loaded, patch), loaded)


def _grid(positions: Sequence[ImageArray], loaded: tuple[int, ...]) -> torch.Tensor:
    """Return positions for torch's grid_sample, which is twice as fast as scipy here.

    It wants x, y, z order and [-1, 1] from edge to edge.
    """
    grid = np.empty((1, *positions[0].shape, len(positions)), dtype=np.float32)
    for axis, (position, size) in enumerate(zip(positions, loaded, strict=True)):
        np.multiply(position + np.float32(0.5), 2.0 / size, out=grid[0, ..., -1 - axis])
    grid -= 1.0
    return torch.from_numpy(grid)


def _source_positions(
    draw: SampleDraw, loaded: tuple[int, ...], patch: tuple[int, ...]
) -> list[ImageArray]:
    """Return for each axis the source coordinate (*patch) of each output voxel, in voxels."""
    axes = np.ogrid[tuple(slice(size) for size in patch)]
    centered = [axis - (size - 1) / 2.0 for axis, size in zip(axes, patch, strict=True)]
    positions = []
    for row, size in zip(sampling_matrix(draw, len(patch)), loaded, strict=True):
        terms = [
            (factor * values).astype(np.float32)
            for factor, values in zip(row, centered, strict=True)
        ]
        terms[0] += np.float32((size - 1) / 2.0)
        positions.append(functools.reduce(np.add, terms))
    return positions


def _resample_label(label: LabelArray, positions: list[ImageArray]) -> LabelArray:
    """Return for each voxel the label with the largest linear weight, the lowest one on ties.

    Only voxels between different labels need the vote; all others take the label around them.
    """
    padded = np.pad(label, 1, constant_values=OUTSIDE)
    lowest, highest = padded, padded
    for axis in range(label.ndim):
        near = tuple(slice(None, -1) if a == axis else slice(None) for a in range(label.ndim))
        far = tuple(slice(1, None) if a == axis else slice(None) for a in range(label.ndim))
        lowest = np.minimum(lowest[near], lowest[far])
        highest = np.maximum(highest[near], highest[far])
    cells = np.where(lowest == highest, lowest, np.int16(_MIXED))
    shifted = [
        np.clip(position + np.float32(1.0), 0.0, size + 1.0)
        for position, size in zip(positions, label.shape, strict=True)
    ]
    corner = [
        np.minimum(position.astype(np.int32), size)
        for position, size in zip(shifted, label.shape, strict=True)
    ]
    turned: LabelArray = cells[tuple(corner)]
    mixed = turned == _MIXED
    corner = [index[mixed] for index in corner]
    share = [
        (position[mixed] - index).astype(np.float32)
        for position, index in zip(shifted, corner, strict=True)
    ]
    turned[mixed] = _vote(padded, corner, share)
    return turned


def _vote(
    label: LabelArray, corner: list[npt.NDArray[np.int32]], share: list[ImageArray]
) -> LabelArray:
    """Return the winning label among the corners around each of n positions."""
    sides = list(itertools.product((0, 1), repeat=len(corner)))
    labels = np.stack(
        [label[tuple(i + s for i, s in zip(corner, side, strict=True))] for side in sides]
    )
    weights = np.stack(
        [
            np.prod([f if s else 1 - f for f, s in zip(share, side, strict=True)], axis=0)
            for side in sides
        ]
    )
    scores = np.zeros_like(weights)
    for other, weight in zip(labels, weights, strict=True):
        scores += weight * (labels == other)
    # Score and label in one number: the larger score wins, then the lower label.
    codes = np.rint(scores * _STEPS).astype(np.int32) * 65536 + (65534 - labels.astype(np.int32))
    winners: LabelArray = (65534 - (codes.max(axis=0) & 65535)).astype(np.int16)
    return winners
