"""Thick slices of an organ with lesions that only neighboring slices tell apart from vessels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple

ORGAN, LESION = 1, 2
LABELS = (Label(name="organ", value=ORGAN), Label(name="lesion", value=LESION))
SHAPE: Shape3 = (16, 64, 64)
SPACING_MM: Triple = (5.0, 0.8, 0.8)

BACKGROUND, ORGAN_VALUE, BRIGHT = 40.0, 100.0, 160.0
NOISE, BRIGHT_SPREAD = 12.0, 8.0
VESSELS, LESIONS = (2, 3), (5, 8)
RADIUS_PX = (2.2, 4.2)  # of every cross-section, vessel or lesion
DRIFT_PX = 1.6  # of a vessel from slice to slice
LESION_SLICES = (1, 2)


def write_slices_dataset(root: Path, *, name: str, train: int, test: int, seed: int) -> None:
    """Write a dataset of thick-sliced phantoms, 5 × 0.8 × 0.8 mm; see `write_cases`."""
    write_cases(
        root,
        make_slices,
        name=name,
        channel="MRI",
        labels=LABELS,
        train=train,
        test=test,
        seed=seed,
    )


def make_slices(rng: np.random.Generator) -> Phantom:
    """Return an organ with bright discs: vessels run through many slices, lesions end at once.

    Cross-sections of both have the same radii and brightness, so one slice alone cannot tell which
    is which.
    """
    depth, height, width = SHAPE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    middle = np.array([height / 2, width / 2]) + rng.uniform(-3, 3, 2)
    radii = rng.uniform(0.38, 0.46, 2) * (height, width)
    squared = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2
    heights = (np.arange(depth) - depth / 2) / (0.6 * depth)
    organ = squared[None] <= (1 - heights**2)[:, None, None]
    image = np.where(organ, ORGAN_VALUE, BACKGROUND).astype(np.float32)
    label = organ.astype(np.uint8) * ORGAN
    taken = np.zeros(SHAPE, np.bool_)
    for _ in range(rng.integers(*VESSELS, endpoint=True)):
        place, heading = _place(rng, middle, radii), rng.uniform(0, 2 * np.pi)
        for z in range(depth):
            disc = _disc(y, x, place, rng) & organ[z]
            _paint(image[z], disc, rng)
            taken[z] |= disc
            heading += rng.normal(0, 0.5)
            place = place + DRIFT_PX * np.array([np.sin(heading), np.cos(heading)])
    for _ in range(rng.integers(*LESIONS, endpoint=True)):
        place, count = _place(rng, middle, radii), int(rng.integers(*LESION_SLICES, endpoint=True))
        first = int(rng.integers(2, depth - 1 - count))
        discs = [_disc(y, x, place + rng.uniform(-1, 1, 2), rng) for _ in range(count)]
        around = slice(first - 1, first + count + 1)
        near = _disc(y, x, place, rng, radius=2 * RADIUS_PX[1])
        if (taken[around] & near).any() or not all(
            organ[first + i][d].all() for i, d in enumerate(discs)
        ):
            continue
        for z, disc in enumerate(discs, start=first):
            _paint(image[z], disc, rng)
            label[z][disc] = LESION
            taken[z] |= disc
    image += rng.normal(0, NOISE, SHAPE).astype(np.float32)
    return Phantom(
        image=np.round(image), label=label, geometry=Geometry(shape=SHAPE, spacing_mm=SPACING_MM)
    )


def _place(
    rng: np.random.Generator, middle: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return a point of the plane well inside the organ."""
    angle, distance = rng.uniform(0, 2 * np.pi), 0.75 * np.sqrt(rng.uniform())
    place: npt.NDArray[np.float64] = middle + distance * radii * (np.sin(angle), np.cos(angle))
    return place


def _disc(
    y: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    place: npt.NDArray[np.float64],
    rng: np.random.Generator,
    *,
    radius: float | None = None,
) -> npt.NDArray[np.bool_]:
    radius = rng.uniform(*RADIUS_PX) if radius is None else radius
    disc: npt.NDArray[np.bool_] = (y - place[0]) ** 2 + (x - place[1]) ** 2 <= radius**2
    return disc


def _paint(
    plane: npt.NDArray[np.float32], disc: npt.NDArray[np.bool_], rng: np.random.Generator
) -> None:
    plane[disc] = BRIGHT + rng.normal(0, BRIGHT_SPREAD)
