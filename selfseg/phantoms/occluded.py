"""A compact organ of predictable shape behind a veil, and blobs whose shape nothing predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple

ORGAN = 1
LABELS = (Label(name="organ", value=ORGAN),)
SHAPE: Shape3 = (20, 28, 28)
SPACING_MM: Triple = (3.5, 3.5, 3.5)

BACKGROUND, ORGAN_VALUE, NOISE = 40.0, 100.0, 6.0
# The organ: an ellipsoid that is bent and sheared; all of it varies a little.
RADII_PX = (4.8, 7.6, 6.4)
RADII_SPREAD, PLACE_PX = 0.05, 2.5
BEND, BEND_SPREAD, SHEAR_SPREAD = 0.3, 0.05, 0.06
# The veil: a slab across the organ in which it looks like its surroundings.
VEIL_SHARE = (0.4, 0.6)  # of the organ's diameter
# Blobs: smooth noise above a threshold.
BLOB_WIDTH_PX, BLOB_SHARE = (1.2, 3.0), (0.02, 0.12)

Bools = npt.NDArray[np.bool_]


def write_occluded_dataset(root: Path, *, name: str, train: int, test: int, seed: int) -> None:
    """Write cases of `make_occluded` in the nnU-Net v2 raw layout; see `write_cases`."""
    write_cases(
        root,
        make_occluded,
        name=name,
        channel="CT",
        labels=LABELS,
        train=train,
        test=test,
        seed=seed,
    )


def write_blobs_dataset(root: Path, *, name: str, train: int, test: int, seed: int) -> None:
    """Write cases of `make_blobs` in the nnU-Net v2 raw layout; see `write_cases`."""
    write_cases(
        root, make_blobs, name=name, channel="CT", labels=LABELS, train=train, test=test, seed=seed
    )


def make_occluded(rng: np.random.Generator) -> Phantom:
    """Return an organ of which a slab is hidden, in noise.

    Within the slab nothing in the image tells where the organ ends; its shape elsewhere, and that
    of other organs, do.
    """
    organ, middle = _organ(rng)
    image = np.where(organ, ORGAN_VALUE, BACKGROUND).astype(np.float32)
    grid = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.float32)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    along = np.tensordot(direction, grid - middle.reshape(3, 1, 1, 1), axes=1)
    half = float(np.abs(along[organ]).max())
    start = rng.uniform(-0.9, 0.9 - 2 * VEIL_SHARE[0]) * half
    veil = (along > start) & (along < start + 2 * half * rng.uniform(*VEIL_SHARE))
    image[veil] = BACKGROUND
    return _phantom(image, organ, rng)


def make_blobs(rng: np.random.Generator) -> Phantom:
    """Return bright blobs of any number, size, form and place."""
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), rng.uniform(*BLOB_WIDTH_PX))
    blobs: Bools = noise > np.quantile(noise, 1 - rng.uniform(*BLOB_SHARE))
    image = np.where(blobs, ORGAN_VALUE, BACKGROUND).astype(np.float32)
    return _phantom(image, blobs, rng)


def _organ(rng: np.random.Generator) -> tuple[Bools, npt.NDArray[np.float64]]:
    """Return the organ and its middle."""
    middle = np.array(SHAPE) / 2 + rng.uniform(-PLACE_PX, PLACE_PX, 3)
    radii = np.array(RADII_PX) * rng.normal(1, RADII_SPREAD, 3).clip(0.8, 1.2)
    bend = rng.normal(BEND, BEND_SPREAD)
    tilt, slant = rng.normal(0, SHEAR_SPREAD, 2)
    points = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.float64)
    u, v, w = ((points[i] - middle[i]) / radii[i] for i in range(3))
    w = w - bend * (v**2 - 0.5) + tilt * u
    v = v + slant * u
    inside: Bools = u**2 + v**2 + (w / (1 + 0.3 * v)) ** 2 <= 1
    return inside, middle


def _phantom(image: npt.NDArray[np.float32], mask: Bools, rng: np.random.Generator) -> Phantom:
    noisy = ndimage.gaussian_filter(rng.normal(0, 1, SHAPE), 0.7)
    image = image + (NOISE / noisy.std() * noisy).astype(np.float32)
    return Phantom(
        image=np.round(image),
        label=mask.astype(np.uint8) * ORGAN,
        geometry=Geometry(shape=SHAPE, spacing_mm=SPACING_MM),
    )
