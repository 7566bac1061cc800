"""Draw all random parameters of one augmented sample; both backends apply the same draws.

The transforms, their order and their default ranges follow nnU-Net v2 (Isensee et al., 2021).
Drawing is separate from applying, so that a sample is a pure function of its random stream, the
patch to load is known before it is loaded, and two backends can be compared draw by draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from selfseg.records.augmentation import Augmentation, Range

Factors = tuple[float, ...]
Operation = Literal["dilate", "erode", "open", "close"]


@dataclass(frozen=True)
class Morphology:
    """One operation on one label of the previous stage, with a ball of `radius` voxels."""

    label: int
    operation: Operation
    radius: int


@dataclass(frozen=True)
class Removal:
    """Deletes one component of a label among those below a share of the patch.

    `choice` in [0, 1) picks it: the components are not known when this is drawn.
    """

    label: int
    choice: float
    below_share: float


@dataclass(frozen=True)
class Hidden:
    """A slab of the patch in which the image is that of another place, so tells nothing.

    Attributes:
        normal: Unit vector across the slab.
        offset: Distance of its middle from the middle of the patch along `normal`, in voxels.
        half_width: In voxels.
        shift: Voxels along each axis to the other place; beyond the border the patch repeats.
    """

    normal: tuple[float, ...]
    offset: float
    half_width: float
    shift: tuple[int, ...]


@dataclass(frozen=True)
class SampleDraw:
    """All parameters of one sample; None means that a transform is not applied.

    Attributes:
        dummy_2d: Spatial transforms act in the plane of the last two axes only.
        angles: Rotation in radians: about each axis (3D), or one angle in the plane.
        scale: Zoom of the sampling grid; > 1 shrinks objects.
        hidden: Where the image is hidden.
        noise_std: Standard deviation of the additive Gaussian noise.
        noise_seed: Seed of the noise's own stream.
        blur: For each channel the standard deviation in voxels per axis, or None.
        brightness: Factor for each channel.
        contrast: Factor about the mean for each channel.
        low_resolution: For each channel the zoom, or None.
        gamma_inverted: Exponent for each channel, applied to the negated channel.
        gamma: Exponent for each channel.
        mirror: Spatial axes to mirror.
        morphology: Operations on the previous stage's segmentation, in this order.
        removals: Components deleted from it afterwards.
    """

    dummy_2d: bool = False
    angles: tuple[float, ...] | None = None
    scale: float | None = None
    hidden: Hidden | None = None
    noise_std: float | None = None
    noise_seed: int = 0
    blur: tuple[tuple[float, ...] | None, ...] = ()
    brightness: Factors | None = None
    contrast: Factors | None = None
    low_resolution: tuple[float | None, ...] = ()
    gamma_inverted: Factors | None = None
    gamma: Factors | None = None
    mirror: tuple[int, ...] = ()
    morphology: tuple[Morphology, ...] = ()
    removals: tuple[Removal, ...] = ()

    @property
    def is_spatial(self) -> bool:
        """True if the sample must be interpolated; else its patch is cut as it is."""
        return self.angles is not None or self.scale is not None


def draw_sample(
    options: Augmentation,
    *,
    channels: int,
    patch: tuple[int, ...],
    rng: np.random.Generator,
    previous_labels: int = 0,
) -> SampleDraw:
    """Draw the parameters of one sample.

    Args:
        options: Probabilities and ranges.
        channels: Number of image channels.
        patch: Final patch in voxels, two or three axes.
        rng: The stream of the sample; draws happen in the order of the transforms.
        previous_labels: Labels of the previous stage's segmentation; 0 outside a cascade, which
            then takes nothing more from the stream.
    """
    dims = len(patch)
    in_plane = options.dummy_2d and dims == 3
    return SampleDraw(
        dummy_2d=in_plane,
        angles=_angles(options, 1 if in_plane or dims == 2 else 3, rng),
        scale=_uniform(options.scaling, rng) if rng.random() < options.scaling_p else None,
        noise_std=_uniform(options.noise_std, rng) if rng.random() < options.noise_p else None,
        noise_seed=int(rng.integers(2**63)),
        blur=_blur(options, channels, dims, rng),
        brightness=_factors(options.brightness_p, options.brightness, channels, rng),
        contrast=_factors(options.contrast_p, options.contrast, channels, rng),
        low_resolution=_low_resolution(options, channels, rng),
        gamma_inverted=_factors(options.gamma_inverted_p, options.gamma, channels, rng),
        gamma=_factors(options.gamma_p, options.gamma, channels, rng),
        mirror=tuple(axis for axis in options.mirror_axes if rng.random() < 0.5),
        hidden=_hidden(options, patch, rng),
        morphology=_morphology(options, previous_labels, rng),
        removals=_removals(options, previous_labels, rng),
    )


def _hidden(
    options: Augmentation, patch: tuple[int, ...], rng: np.random.Generator
) -> Hidden | None:
    """Draw a slab near the middle; without a chance nothing is taken from the stream."""
    if not options.hidden_p or rng.random() >= options.hidden_p:
        return None
    direction = rng.normal(size=len(patch))
    extent = float(np.mean(patch))
    return Hidden(
        normal=tuple((direction / np.linalg.norm(direction)).tolist()),
        offset=float(rng.normal(0.0, options.hidden_spread * extent)),
        half_width=_uniform(options.hidden_width, rng) * extent / 2,
        shift=tuple(int(rng.integers(size // 3, 2 * size // 3 + 1)) for size in patch),
    )


def _morphology(
    options: Augmentation, labels: int, rng: np.random.Generator
) -> tuple[Morphology, ...]:
    if not labels or rng.random() >= options.previous_morphology_p:
        return ()
    operations: tuple[Operation, ...] = get_args(Operation)
    low, high = options.previous_radius
    return tuple(
        Morphology(
            label=int(label),
            operation=operations[int(rng.integers(len(operations)))],
            radius=int(rng.integers(low, high, endpoint=True)),
        )
        for label in 1 + rng.permutation(labels)
        if rng.random() < options.previous_morphology_label_p
    )


def _removals(options: Augmentation, labels: int, rng: np.random.Generator) -> tuple[Removal, ...]:
    if not labels or rng.random() >= options.previous_removal_p:
        return ()
    return tuple(
        Removal(label, float(rng.random()), options.previous_removal_share)
        for label in range(1, labels + 1)
        if rng.random() < options.previous_removal_label_p
    )


def _angles(
    options: Augmentation, count: int, rng: np.random.Generator
) -> tuple[float, ...] | None:
    if rng.random() >= options.rotation_p:
        return None
    limit = np.deg2rad(options.rotation_degrees)
    return tuple(float(angle) for angle in rng.uniform(-limit, limit, size=count))


def _blur(
    options: Augmentation, channels: int, dims: int, rng: np.random.Generator
) -> tuple[tuple[float, ...] | None, ...]:
    if rng.random() >= options.blur_p:
        return (None,) * channels
    return tuple(
        tuple(_uniform(options.blur_sigma, rng) for _ in range(dims))
        if rng.random() < options.blur_channel_p
        else None
        for _ in range(channels)
    )


def _low_resolution(
    options: Augmentation, channels: int, rng: np.random.Generator
) -> tuple[float | None, ...]:
    if rng.random() >= options.low_resolution_p:
        return (None,) * channels
    return tuple(
        _uniform(options.low_resolution, rng)
        if rng.random() < options.low_resolution_channel_p
        else None
        for _ in range(channels)
    )


def _factors(
    chance: float, limits: Range, channels: int, rng: np.random.Generator
) -> Factors | None:
    if rng.random() >= chance:
        return None
    return tuple(_two_sided(limits, rng) for _ in range(channels))


def _uniform(limits: Range, rng: np.random.Generator) -> float:
    return float(rng.uniform(limits[0], limits[1]))


def _two_sided(limits: Range, rng: np.random.Generator) -> float:
    """Draw below one and above one equally often, uniformly on each side."""
    low, high = limits
    if low >= 1 or high <= 1:
        return _uniform(limits, rng)
    return _uniform((low, 1.0) if rng.random() < 0.5 else (1.0, high), rng)
