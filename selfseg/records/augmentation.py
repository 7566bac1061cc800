"""Options of training augmentation: for each transform its probability and range."""

from __future__ import annotations

from typing import ClassVar

from selfseg.records.serial import GrownRecord

Range = tuple[float, float]


class Augmentation(GrownRecord):
    """Random transforms in the order they are applied; defaults follow nnU-Net v2.

    Attributes:
        dummy_2d: Rotate and scale in the plane only, equally for all slices.
        rotation_p, rotation_degrees: Chance; limit of the uniform angle about each axis.
        scaling_p, scaling: Chance; range of the zoom of the sampling grid (> 1 shrinks objects).
        noise_p, noise_std: Gaussian noise; its standard deviation is uniform in the range.
        blur_p, blur_channel_p, blur_sigma: Gaussian blur; chance per sample, then per channel.
        brightness_p, brightness: Factor on each channel.
        contrast_p, contrast: Factor about the channel mean, clamped to the old range.
        low_resolution_p, low_resolution_channel_p, low_resolution: Zoom down and up again.
        gamma_inverted_p, gamma_p, gamma: Power on the range-scaled channel; mean and std kept.
        hidden_p, hidden_width, hidden_spread: Chance that a slab of the patch shows another place
            of it, while the label stays; range of its width, and spread of its distance from the
            middle, both as shares of the patch (mean of its axes).
        mirror_axes: Spatial axes mirrored with probability one half each.
        previous_morphology_p, previous_morphology_label_p, previous_radius: In a cascade, chance
            per sample, then per label, that the previous stage's segmentation is dilated, eroded,
            opened or closed; range of the ball's radius in voxels.
        previous_removal_p, previous_removal_label_p, previous_removal_share: Chance per sample,
            then per label, that one of its components is deleted; only those smaller than this
            share of the patch are.
    """

    later: ClassVar[frozenset[str]] = frozenset({"hidden_p", "hidden_width", "hidden_spread"})

    dummy_2d: bool = False
    rotation_p: float = 0.2
    rotation_degrees: float = 30.0
    scaling_p: float = 0.2
    scaling: Range = (0.7, 1.4)
    noise_p: float = 0.1
    noise_std: Range = (0.0, 0.1)
    blur_p: float = 0.2
    blur_channel_p: float = 0.5
    blur_sigma: Range = (0.5, 1.0)
    brightness_p: float = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_p: float = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_p: float = 0.25
    low_resolution_channel_p: float = 0.5
    low_resolution: Range = (0.5, 1.0)
    gamma_inverted_p: float = 0.1
    gamma_p: float = 0.3
    gamma: Range = (0.7, 1.5)
    hidden_p: float = 0.0
    hidden_width: Range = (0.1, 0.35)
    hidden_spread: float = 0.12
    mirror_axes: tuple[int, ...] = ()
    previous_morphology_p: float = 0.4
    previous_morphology_label_p: float = 0.5
    previous_radius: tuple[int, int] = (1, 8)
    previous_removal_p: float = 0.2
    previous_removal_label_p: float = 0.5
    previous_removal_share: float = 0.15
