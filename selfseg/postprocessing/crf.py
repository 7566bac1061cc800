"""Refine probabilities with a dense conditional random field, by mean-field inference.

Krähenbühl & Koltun (2011, arXiv:1210.5644), with distances in mm. Kernels are normalized
symmetrically and a voxel counts for itself, so that the normalized kernels are positive definite
and parallel updates descend (Krähenbühl & Koltun, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor

from selfseg.postprocessing.crf_window import Filter, normalized, smooth_filter, window_filter
from selfseg.postprocessing.permutohedral import build_lattice, image_features
from selfseg.records.crf import DenseCrf

Method = Literal["window", "lattice"]

# Goes into the digest that decides whether tuned options hold: raise it when results change, of
# this file, the filters or the tuning.
CRF_VERSION = 1
MARGIN_MM = 20.0  # around the foreground; farther away no label is near enough to come
SMALLEST_PROBABILITY = 1e-5
# Bytes that a voxel of the box takes, measured as peaks and rounded up: fixed, for each label with
# background, for each channel of the image. The faster method stands first.
METHOD_BYTES: dict[Method, tuple[int, int, int]] = {
    "lattice": (300, 50, 200),
    "window": (60, 50, 40),
}


@torch.no_grad()
def refine(
    probabilities: Tensor,
    image: Tensor,
    spacing_mm: Sequence[float],
    options: DenseCrf,
    *,
    method: Method = "window",
) -> Tensor:
    """Return probabilities that follow the image: near, similar voxels get similar labels.

    Works in the box of the foreground (where background is not the most probable label) with a
    margin of 20 mm; elsewhere, and without any foreground, probabilities stay as they are.
    Temporaries are a few times the probabilities in that box, in float32 or better.

    Args:
        probabilities: (C, Z, Y, X) or (C, Y, X), of labels that exclude each other; background
            first. Of any floating dtype; on any device.
        image: (channels, Z, Y, X) or (channels, Y, X), normalized as the plan says.
        spacing_mm: Voxel size along each spatial axis.
        options: Of the field.
        method: `window` truncates the appearance kernel; `lattice` approximates the whole of it.

    Returns:
        Probabilities of the same shape, dtype and device; the arguments are not changed.

    Raises:
        ValueError: The shapes do not fit together.
    """
    _check(probabilities, image, spacing_mm)
    result = probabilities.clone()
    box = _foreground_box(probabilities, spacing_mm)
    if box is None:
        return result
    part = _precise(probabilities[(slice(None), *box)])
    inside = image[(slice(None), *box)].to(part)
    kernels = build_kernels(inside, spacing_mm, options, method=method)
    weights = (options.w_appearance, options.w_smooth)
    unary = unary_logits(part, confidence=options.confidence)
    refined = mean_field(unary, kernels, weights, iterations=options.iterations)
    result[(slice(None), *box)] = refined.to(result.dtype)
    return result


@torch.no_grad()
def refine_foreground(
    foreground: Tensor,
    image: Tensor,
    spacing_mm: Sequence[float],
    options: DenseCrf,
    *,
    exclusive: bool,
    method: Method,
) -> Tensor:
    """Return refined probabilities of labels without background, or of regions.

    A region is refined as two labels, it and the rest. A volume of a single slice is a picture.

    Args:
        foreground: (c, Z, Y, X) or (c, Y, X).
        image: (channels, Z, Y, X) or (channels, Y, X), normalized as the plan says.
        spacing_mm: Voxel size along each spatial axis.
        options: Of the field.
        exclusive: Labels exclude each other, and background is what they leave; else regions.
        method: As in `refine`.
    """
    if foreground.ndim == 4 and foreground.shape[1] == 1:
        flat = refine_foreground(
            foreground[:, 0], image[:, 0], spacing_mm[1:], options,
            exclusive=exclusive, method=method,
        )  # fmt: skip
        return flat[:, None]
    groups = [foreground] if exclusive else [region[None] for region in foreground]
    refined = []
    for group in groups:
        background = (1 - group.sum(0, keepdim=True)).clamp_(min=0)
        both = torch.cat([background, group])
        refined.append(refine(both, image, spacing_mm, options, method=method)[1:])
    return torch.cat(refined)


def fitting_method(
    voxels: int, labels: int, channels: int, room_bytes: float
) -> tuple[Method | None, float]:
    """Return the fastest method that fits into memory, None without one, and the bytes it takes.

    Args:
        voxels: In the box of the foreground with its margin.
        labels: Labels with background; 2 for regions, which come one by one.
        channels: Of the image.
        room_bytes: Memory that may be taken.
    """
    needed = 0.0
    for method, (fixed, a_label, a_channel) in METHOD_BYTES.items():
        needed = float(voxels * (fixed + a_label * labels + a_channel * channels))
        if needed <= room_bytes:
            return method, needed
    return None, needed


def unary_logits(probabilities: Tensor, *, confidence: float = 1.0) -> Tensor:
    """Return `log max(p', 1e-5)`, `p' = 1/C + confidence·(p − 1/C)`, of probabilities (C, *D)."""
    even = 1 / len(probabilities)
    softened = even + confidence * (probabilities - even)
    return softened.clamp(SMALLEST_PROBABILITY, 1).log()


def mean_field(
    unary: Tensor,
    kernels: Sequence[Filter],
    weights: Sequence[Tensor | float],
    *,
    iterations: int,
    damping: float = 0.0,
) -> Tensor:
    """Return probabilities after parallel updates `Q ← softmax(unary + Σ_m w_m·K_m Q)`.

    Differentiable in the unary logits, the weights, and what the kernels are made of.

    Args:
        unary: (C, *D) logits.
        kernels: Normalized filters of arrays (C, *D).
        weights: One for each; a kernel of weight 0 is not computed.
        iterations: Number of updates.
        damping: Share of the former probabilities that is kept in each update.
    """
    used = [
        (kernel, weight)
        for kernel, weight in zip(kernels, weights, strict=True)
        if isinstance(weight, Tensor) or weight != 0
    ]
    beliefs = unary.softmax(0)
    for _ in range(iterations):
        logits = unary
        for kernel, weight in used:
            logits = logits + weight * kernel(beliefs)
        update = logits.softmax(0)
        beliefs = update if damping == 0 else damping * beliefs + (1 - damping) * update
    return beliefs


def build_kernels(
    image: Tensor, spacing_mm: Sequence[float], options: DenseCrf, *, method: Method
) -> tuple[Filter, Filter]:
    """Return the normalized appearance and smoothness kernels on the grid of an image (f, *D)."""
    features = image / options.theta_intensity
    match method:
        case "window":
            appearance = window_filter(features, options.theta_space_mm, spacing_mm)
        case "lattice":
            appearance = _lattice_filter(features, options.theta_space_mm, spacing_mm)
        case _:
            assert_never(method)
    smooth = smooth_filter(options.theta_smooth_mm, spacing_mm)
    return normalized(appearance, image), normalized(smooth, image)


def _lattice_filter(features: Tensor, theta_mm: float, spacing_mm: Sequence[float]) -> Filter:
    lattice = build_lattice(image_features(features, theta_mm, spacing_mm))
    return lambda values: lattice(values.flatten(1)).reshape(values.shape)


def _foreground_box(probabilities: Tensor, spacing_mm: Sequence[float]) -> tuple[slice, ...] | None:
    """Return the box of the foreground with a margin of 20 mm; None where there is none."""
    mask = probabilities.argmax(0) > 0
    box = []
    for axis, size_mm in enumerate(spacing_mm):
        others = [other for other in range(mask.ndim) if other != axis]
        places = mask.any(dim=others).nonzero()
        if not len(places):
            return None
        margin = math.ceil(MARGIN_MM / size_mm)
        box.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + 1 + margin))
    return tuple(box)


def _precise(values: Tensor) -> Tensor:
    """Return values in float32 or better: kernels lose too many digits in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(probabilities: Tensor, image: Tensor, spacing_mm: Sequence[float]) -> None:
    if not probabilities.is_floating_point() or probabilities.ndim not in (3, 4):
        raise ValueError(
            "probabilities should be floating (C, Z, Y, X) or (C, Y, X), "
            f"not {probabilities.dtype} of shape {tuple(probabilities.shape)}"
        )
    if image.ndim != probabilities.ndim or image.shape[1:] != probabilities.shape[1:]:
        raise ValueError(
            f"image should be (channels, *{tuple(probabilities.shape[1:])}), "
            f"not {tuple(image.shape)}"
        )
    if len(spacing_mm) != probabilities.ndim - 1 or min(spacing_mm) <= 0:
        raise ValueError(
            f"spacing should be {probabilities.ndim - 1} positive sizes in mm, not {spacing_mm}"
        )
