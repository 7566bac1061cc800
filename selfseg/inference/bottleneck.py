"""What a segmentation network knows of a lesion: its bottleneck, averaged inside the mask.

The encoder sees one window around the lesion, at least as large as its patch. A cell of the deepest
feature map counts by the share of it that the mask covers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from selfseg.errors import ModelError
from selfseg.inference.model import Model
from selfseg.inference.predictor import read_case
from selfseg.networks.unet import EncoderDecoder
from selfseg.preprocessing.axes import to_working
from selfseg.preprocessing.case import PreparedCase
from selfseg.preprocessing.resample import resample_labels, separate_axis
from selfseg.records.dataset import Case
from selfseg.records.network import ResidualUNet, UNet

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def pooled_bottleneck(model: Model, case: Case, masks: Iterable[Mask]) -> list[Floats]:
    """Return the mean feature vector (features,) of each mask.

    Args:
        model: A U-Net of one fold; see `check_pooling`.
        case: Images; paths are absolute.
        masks: (z, y, x) in canonical axes of the image, none empty.

    Raises:
        ModelError: A network without a bottleneck that can be pooled, or several folds.
        ImageError: The image cannot be read, or has other channels than the plan.
    """
    encoder = check_pooling(model).to(model.device)
    prepared = read_case(model, case)
    rows = []
    with torch.no_grad():
        for mask in masks:
            working = _on_working_grid(mask, prepared, model)
            rows.append(_pool(encoder, prepared.image, working, model))
    return rows


def check_pooling(model: Model) -> nn.ModuleList:
    """Return the encoder of a model whose bottleneck can be pooled.

    Raises:
        ModelError: Feature maps of several folds cannot be averaged, and cascades and networks
            that are no U-Net have no one bottleneck.
    """
    options = model.configuration.network
    if model.configuration.previous_stage is not None or not isinstance(
        options, UNet | ResidualUNet
    ):
        raise ModelError(
            f"{model.description}: a {options.kind} network or cascade gives no deep features",
            remedy="Take a plain 2d, 3d_lowres or 3d_fullres U-Net with --config.",
        )
    networks = [part for part in model.network.modules() if isinstance(part, EncoderDecoder)]
    if len(networks) != 1:
        raise ModelError(
            f"{model.description}: features of {len(networks)} folds mean different things",
            remedy="Choose one with --fold.",
        )
    return networks[0].encoder


def _on_working_grid(mask: Mask, prepared: PreparedCase, model: Model) -> Mask:
    """Bring a mask to the grid of the network; one that vanishes there keeps its central voxel."""
    record, options = prepared.record, model.configuration.preprocessing
    turned = to_working(mask, record.axes, record.flips)
    cropped = turned[record.crop.slices].astype(np.int16, order="C")
    axis = separate_axis(
        record.spacing_before_mm, record.spacing_mm, options.resampling, is_2d=record.native.is_2d
    )
    working = resample_labels(cropped, record.shape, axis, options.resampling) > 0
    if not working.any():
        center = np.argwhere(turned).mean(axis=0) - record.crop.lower
        scale = np.array(record.shape) / np.array(record.crop.shape)
        place = np.clip(((center + 0.5) * scale).astype(int), 0, np.array(record.shape) - 1)
        working[tuple(place)] = True
    return np.asarray(working, np.bool_)


def _pool(
    encoder: nn.ModuleList, image: npt.NDArray[np.float32], mask: Mask, model: Model
) -> Floats:
    """Return the mean bottleneck inside a mask, weighed by covered shares (features,)."""
    total: Floats = np.zeros(0)
    weight = 0.0
    for part, inside in _windows(image, mask, model):
        features = part.to(model.device)[None]
        for stage in encoder:
            features = stage(features)
        share = _shares(inside, tuple(features.shape[2:])).to(features)
        summed = (features[0] * share).flatten(1).sum(dim=1).double().cpu().numpy()
        total = total + summed if len(total) else summed
        weight += float(share.sum())
    return np.asarray(total / weight, np.float64)


def _shares(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the share of each cell that a mask covers; cells are whole voxels in size."""
    batch = mask[None, None]
    if len(shape) == 2:
        return nn.functional.adaptive_avg_pool2d(batch, (shape[0], shape[1]))[0, 0]
    return nn.functional.adaptive_avg_pool3d(batch, (shape[0], shape[1], shape[2]))[0, 0]


def _windows(
    image: npt.NDArray[np.floating], mask: Mask, model: Model
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield window (c, *D) and mask (*D) around a lesion; for a 2D network slice by slice."""
    patch = model.configuration.patch
    strides = np.prod(_strides(model), axis=0)
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    flat = len(patch) == 2
    size = [1] * flat + [
        max(int(edge), math.ceil(extent / stride) * int(stride))
        for edge, extent, stride in zip(patch, (high - low)[flat:], strides, strict=True)
    ]
    for z in np.unique(places[:, 0]) if flat else [0]:
        lower, upper = low.copy(), high.copy()
        if flat:
            lower[0], upper[0] = z, z + 1
        part = _cut(image, lower, upper, size)
        inside = _cut(mask[None].astype(np.float32), lower, upper, size)[0]
        yield (part[:, 0], inside[0]) if flat else (part, inside)


def _strides(model: Model) -> tuple[tuple[int, ...], ...]:
    options = model.configuration.network
    assert isinstance(options, UNet | ResidualUNet)  # as check_pooling saw
    return options.strides


def _cut(
    array: npt.NDArray[np.floating],
    low: npt.NDArray[np.integer],
    high: npt.NDArray[np.integer],
    size: Sequence[int],
) -> Tensor:
    """Cut (c, *size) around a box out of (c, z, y, x): inside the image if it fits, else padded."""
    shape = np.array(array.shape[1:])
    start = np.minimum((low + high) // 2 - np.array(size) // 2, shape - size)
    start = np.where(shape >= size, np.maximum(start, 0), -((np.array(size) - shape) // 2))
    inner = tuple(
        slice(max(int(a), 0), min(int(a) + n, int(s)))
        for a, n, s in zip(start, size, shape, strict=True)
    )
    pads = [
        (part.start - int(a), n - (part.stop - part.start) - (part.start - int(a)))
        for part, a, n in zip(inner, start, size, strict=True)
    ]
    return torch.from_numpy(np.pad(array[(slice(None), *inner)], [(0, 0), *pads]))
