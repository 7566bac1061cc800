"""Generated CT-like images with known truth: an organ with a lesion, in a body with distractors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple

ORGAN, LESION = 1, 2
LABELS = (Label(name="organ", value=ORGAN), Label(name="lesion", value=LESION))

# Hounsfield units of the tissues, as in a contrast-enhanced abdominal CT.
AIR_HU, FAT_HU, MUSCLE_HU, ORGAN_HU, LESION_HU, BONE_HU, VESSEL_HU = (
    -1000.0, -100.0, 45.0, 120.0, 65.0, 500.0, 180.0,
)  # fmt: skip
NOISE_HU = 14.0

Floats = npt.NDArray[np.float32]


def make_phantom(
    rng: np.random.Generator,
    *,
    shape: Shape3 = (12, 40, 40),
    spacing_mm: Triple = (5.0, 1.8, 1.8),
) -> Phantom:
    """Return a random CT-like case; the truth is exact on the voxel centres.

    The lesion has the gray value of muscle plus a little and lies inside the organ, so intensity
    alone does not find it.
    """
    points = voxel_centers_mm(shape, spacing_mm)
    extent = np.asarray(shape) * np.asarray(spacing_mm)
    size = extent[1:].min()
    body = _ellipsoid(points, (0, 0, 0), (extent[0] * 2, 0.47 * extent[1], 0.47 * extent[2]))
    muscle = _ellipsoid(points, (0, 0, 0), (extent[0] * 2, 0.42 * extent[1], 0.42 * extent[2]))
    spine = _ellipsoid(points, (0, 0.3 * extent[1], 0), (extent[0] * 2, 0.07 * size, 0.07 * size))
    vessel_x = rng.uniform(0.1, 0.25) * size
    vessel = _ellipsoid(points, (0, 0.05 * size, vessel_x), (extent[0], 0.05 * size, 0.05 * size))
    centre = rng.uniform(-0.06, 0.06, 3) * size + (0, -0.05 * size, -0.1 * size)
    radii = rng.uniform(0.8, 1.2, 3) * np.array([0.24 * extent[0], 0.2 * size, 0.2 * size])
    organ = bumpy(points, centre, radii, rng)
    offset = rng.uniform(-0.35, 0.35, 3) * radii
    lesion = organ & _ellipsoid(points, centre + offset, radii * rng.uniform(0.3, 0.5))
    image = np.full(shape, AIR_HU, np.float32)
    for mask, value in (
        (body, FAT_HU), (muscle, MUSCLE_HU), (spine, BONE_HU), (vessel, VESSEL_HU),
        (organ, ORGAN_HU + rng.normal(0, 5)), (lesion, LESION_HU + rng.normal(0, 5)),
    ):  # fmt: skip
        image[mask] = value
    image += rng.normal(0, NOISE_HU, shape).astype(np.float32)
    label = organ.astype(np.uint8) * ORGAN
    label[lesion] = LESION
    origin = tuple(float(v) for v in rng.uniform(-100, 100, 3))
    geometry = Geometry(
        shape=shape, spacing_mm=spacing_mm, origin_mm=(origin[0], origin[1], origin[2])
    )
    return Phantom(image=np.round(image), label=label, geometry=geometry)


def write_dataset(
    root: Path,
    *,
    name: str,
    train: int,
    test: int,
    seed: int,
    shape: Shape3 = (12, 40, 40),
    spacing_mm: Triple = (5.0, 1.8, 1.8),
) -> None:
    """Write a dataset of phantoms in the nnU-Net v2 raw layout, with references for all cases.

    Args:
        root: Folder to fill: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json.
        name: Name in dataset.json.
        train: Number of training cases.
        test: Number of test cases.
        seed: Seed; case i depends on (seed, i) only.
        shape: Voxels of each case.
        spacing_mm: Voxel size of each case.
    """
    make = partial(make_phantom, shape=shape, spacing_mm=spacing_mm)
    write_cases(
        root, make, name=name, channel="CT", labels=LABELS, train=train, test=test, seed=seed
    )


def voxel_centers_mm(shape: Shape3, spacing_mm: Triple) -> Floats:
    """Return (3, Z, Y, X) positions in mm about the middle of the grid."""
    axes = [
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * s
        for n, s in zip(shape, spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _squared_radius(points: Floats, centre: npt.ArrayLike, radii: npt.ArrayLike) -> Floats:
    middle = np.asarray(centre, np.float32).reshape(3, 1, 1, 1)
    scale = np.asarray(radii, np.float32).reshape(3, 1, 1, 1)
    squared: Floats = (((points - middle) / scale) ** 2).sum(axis=0)
    return squared


def _ellipsoid(
    points: Floats, centre: npt.ArrayLike, radii: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    return _squared_radius(points, centre, radii) <= 1


def bumpy(
    points: Floats, centre: npt.ArrayLike, radii: npt.ArrayLike, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return an ellipsoid whose radius swings by a tenth with three random plane waves."""
    waves = np.ones(points.shape[1:], np.float32)
    for _ in range(3):
        direction = rng.normal(size=3).astype(np.float32)
        phase = np.tensordot(direction / np.linalg.norm(direction), points, axes=1) * 0.12
        waves += np.float32(0.05) * np.sin(phase + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    bumpy: npt.NDArray[np.bool_] = _squared_radius(points, centre, radii) <= waves**2
    return bumpy
