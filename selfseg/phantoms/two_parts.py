"""Generated MR-like images of a bent structure of two touching parts, or of a ball, in one style.

What a network could learn before it sees few real cases: a form, its place among tissues, any scale
of intensities. A second style, with fluid bright in place of dark and another anatomy, is what no
one should start from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple

ANTERIOR, POSTERIOR = 1, 2
PARTS = (Label(name="anterior", value=ANTERIOR), Label(name="posterior", value=POSTERIOR))
BALL = (Label(name="nodule", value=1),)

# Places and radii (z, y, x) are shares of half the field of view, from its middle: z grows to the
# head, y to the back. The structure runs from its wide end in front to a narrow one behind, above.
FRONT, BACK = (-0.35, -0.6, 0.0), (0.4, 0.62, 0.0)
FRONT_RADII, BACK_RADII = (0.28, 0.2, 0.47), (0.19, 0.18, 0.3)
BENDS = (0.1, 0.35)  # sideways, at both ends
SPLIT = (0.34, 0.48)  # of its length belongs to the part in front
BALL_RADIUS = (0.3, 0.5)
POINTS = 24  # of its center line

# Gray where smooth noise is near 0, fluid where it is nearer: folds and what lies between them.
RIBBON_WIDTH, RIBBONS, GAPS = 0.17, 0.5, 0.18
LUMP_RADII = (0.12, 0.4)
BLUR_VOXELS = 0.6
TEXTURE, NOISE, SHADING = 0.03, 0.04, 0.08  # standard deviations, as the tissues
DECADES = (2.0, 4.5)  # of the scale of intensities, which says nothing in MR

Floats = npt.NDArray[np.float32]
Axes = tuple[Floats, Floats, Floats]


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is in an image, and how it shows.

    Attributes:
        anatomy: `two_parts` or `ball`.
        shapes: Smallest and largest grid; each case has its own.
        spacing_mm: Of every case.
        white, gray, fluid: Intensities of tissues; what is labeled is gray.
    """

    anatomy: Literal["two_parts", "ball"] = "two_parts"
    shapes: tuple[Shape3, Shape3] = ((32, 44, 32), (40, 54, 40))
    spacing_mm: Triple = (1.0, 1.0, 1.0)
    white: float = 0.95
    gray: float = 0.55
    fluid: float = 0.1

    @property
    def labels(self) -> tuple[Label, ...]:
        """What is annotated."""
        return PARTS if self.anatomy == "two_parts" else BALL


DARK_FLUID = Style()
BRIGHT_FLUID_BALL = Style(anatomy="ball", white=0.05, gray=0.2, fluid=1.5)


def write_two_parts_dataset(
    root: Path, *, name: str, style: Style, train: int, test: int, seed: int
) -> None:
    """Write cases of `make_two_parts` in the nnU-Net v2 raw layout; see `write_cases`."""
    make = partial(make_two_parts, style=style)
    write_cases(
        root, make, name=name, channel="MRI", labels=style.labels, train=train, test=test, seed=seed
    )


def make_two_parts(rng: np.random.Generator, *, style: Style) -> Phantom:
    """Return an image of a style; place, size, bend, surroundings and scale are drawn."""
    low, high = style.shapes
    z, y, x = (int(rng.integers(a, b, endpoint=True)) for a, b in zip(low, high, strict=True))
    axes = _axes((z, y, x))
    image = _surroundings(axes, style, rng)
    draw = _two_parts if style.anatomy == "two_parts" else _ball
    label = draw(axes, image, style, rng)
    image = ndimage.gaussian_filter(image, BLUR_VOXELS)
    image += TEXTURE * _smooth_noise(image.shape, 0.05, rng)
    image *= 1 + SHADING * _smooth_noise(image.shape, 0.7, rng)
    image += NOISE * rng.standard_normal(image.shape).astype(np.float32)
    image = image.clip(0) * np.float32(10 ** rng.uniform(*DECADES))
    return Phantom(
        image=image, label=label, geometry=Geometry(shape=(z, y, x), spacing_mm=style.spacing_mm)
    )


def _surroundings(axes: Axes, style: Style, rng: np.random.Generator) -> Floats:
    """Return white matter with gray ribbons, and lumps as gray as the structure or of fluid."""
    shape = tuple(int(max(axis.shape)) for axis in axes)
    folds = np.abs(_smooth_noise(shape, RIBBON_WIDTH, rng))
    image = np.where(folds < RIBBONS, style.gray, style.white).astype(np.float32)
    image[folds < GAPS] = style.fluid
    for value, most in ((style.gray, 4), (style.fluid, 5)):
        for _ in range(rng.integers(2, most, endpoint=True)):
            inside = _squared(axes, rng.uniform(-0.9, 0.9, 3), rng.uniform(*LUMP_RADII, 3)) <= 1
            image[inside] = value + rng.normal(0, 0.02)
    return image


def _two_parts(
    axes: Axes, image: Floats, style: Style, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Paint the structure, fluid above it and a gray neighbor in front; return its label map."""
    along = np.linspace(0, 1, POINTS)
    size = rng.uniform(0.85, 1.1)
    places = np.outer(1 - along, FRONT) + np.outer(along, BACK)
    places[:, 0] -= rng.uniform(0.05, 0.25) * np.sin(np.pi * along)  # hangs between its ends
    places[:, 2] += rng.choice([-1, 1]) * rng.uniform(*BENDS) * (2 * (2 * along - 1) ** 2 - 1)
    places = size * places + rng.normal(0, 0.05, 3)
    radii = np.outer(1 - along, FRONT_RADII) + np.outer(along, BACK_RADII)
    radii *= size * rng.uniform(0.9, 1.1, 3)
    neighbor = _squared(axes, places[0] + (0.1, -0.3, 0.0), radii[0]) <= 1
    image[neighbor] = style.gray + rng.normal(0, 0.02)
    fluid, _ = _tube(axes, places + radii * (0.7, 0.0, 0.3), 0.6 * radii)
    image[fluid] = style.fluid
    inside, nearest = _tube(axes, places, radii)
    front = inside & (along[nearest] < rng.uniform(*SPLIT))
    label = np.where(front, ANTERIOR, POSTERIOR * inside).astype(np.uint8)
    for value in (ANTERIOR, POSTERIOR):
        image[label == value] = style.gray + rng.normal(0, 0.02)
    return label


def _ball(
    axes: Axes, image: Floats, style: Style, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Paint a ball somewhere; return its label map."""
    place, radius = rng.uniform(-0.4, 0.4, 3), rng.uniform(*BALL_RADIUS)
    inside = _squared(axes, place, np.full(3, radius)) <= 1
    image[inside] = style.gray + rng.normal(0, 0.02)
    return inside.astype(np.uint8)


def _tube(
    axes: Axes, places: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Return what ellipsoids along a line cover, and the nearest of them for every voxel."""
    pairs = zip(places, radii, strict=True)
    squared = np.stack([_squared(axes, place, radius) for place, radius in pairs])
    return squared.min(axis=0) <= 1, squared.argmin(axis=0)


def _smooth_noise(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> Floats:
    """Return noise of standard deviation 1; widths as places and radii."""
    widths = [width * n / 2 for n in shape]
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), widths)
    scaled: Floats = (noise - noise.mean()) / noise.std()
    return scaled


def _axes(shape: Shape3) -> Axes:
    """Return places of voxels along each axis, broadcasting to the grid."""
    z, y, x = (((np.arange(n) + 0.5) / (n / 2) - 1).astype(np.float32) for n in shape)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _squared(axes: Axes, place: npt.ArrayLike, radii: npt.ArrayLike) -> Floats:
    """Return the squared distance from a place in units of the radii, (Z, Y, X)."""
    middle, scale = np.asarray(place, np.float32), np.asarray(radii, np.float32)
    z, y, x = (((axes[i] - middle[i]) / scale[i]) ** 2 for i in range(3))
    total: Floats = z + y + x
    return total
