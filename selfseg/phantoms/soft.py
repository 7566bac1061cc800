"""One compact organ whose border is blurred and noisy, but there: what a dense CRF is made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from selfseg.phantoms.ct import bumpy, voxel_centers_mm
from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple

LABELS = (Label(name="organ", value=1),)
SHAPE: Shape3 = (32, 40, 40)
SPACING_MM: Triple = (1.5, 1.5, 1.5)

BACKGROUND, ORGAN = 60.0, 100.0
BLUR_VOXELS = 0.6
NOISE = 12.0
RADIUS_MM = (10.0, 15.0)


def write_soft_dataset(root: Path, *, name: str, train: int, test: int, seed: int) -> None:
    """Write a dataset of soft organs, 1.5 mm voxels; see `write_cases`."""
    write_cases(
        root, make_soft, name=name, channel="MRI", labels=LABELS, train=train, test=test, seed=seed
    )


def make_soft(rng: np.random.Generator) -> Phantom:
    """Return an organ of random size and place; its step of intensity is three times the noise."""
    points = voxel_centers_mm(SHAPE, SPACING_MM)
    middle = rng.uniform(-5, 5, 3)
    organ = bumpy(points, middle, rng.uniform(*RADIUS_MM, 3), rng)
    soft = ndimage.gaussian_filter(organ.astype(np.float32), BLUR_VOXELS)
    image = BACKGROUND + (ORGAN - BACKGROUND) * soft
    image += rng.normal(0, NOISE, SHAPE).astype(np.float32)
    return Phantom(
        image=np.round(image),
        label=organ.astype(np.uint8),
        geometry=Geometry(shape=SHAPE, spacing_mm=SPACING_MM),
    )
