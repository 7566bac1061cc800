"""Generated CT-like abdomens: kidneys, one tumor that is benign or malignant, and distractors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.phantoms.writing import Phantom, write_cases
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry
from selfseg.records.serial import Shape3, Triple, write_text

KIDNEY, TUMOR = 1, 2
LABELS = (Label(name="kidney", value=KIDNEY), Label(name="tumor", value=TUMOR))
BENIGN, MALIGNANT = "benign", "malignant"

# Places and radii in mm, (z, y, x) from the middle: y grows to the back, x to the patient's left.
# Kidneys are small beside the body, as in life; all else only has to be where it is expected.
KIDNEY_CENTER, KIDNEY_RADII, KIDNEY_BEND = (0.0, 24.0, 40.0), (20.0, 12.0, 13.0), 6.0
SINGLE_KIDNEY, CYST = 0.15, 0.5  # share of cases; of kidneys
CYST_MM, TUMOR_MM = (4.0, 7.0), (8.0, 12.5)
MEDULLA = 0.4  # of the squared radius of a kidney
BLUR_VOXELS = 0.5
AIR_HU, FAT_HU, MUSCLE_HU, BONE_HU, CYST_HU = -1000.0, -100.0, 55.0, 380.0, 10.0
BOWEL_HU = (25.0, 110.0)

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Axes = tuple[Floats, Floats, Floats]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a place scans: its grid, the phase of the contrast medium, noise, and what it keeps.

    Attributes:
        shape, spacing_mm: Grid of every case.
        cortex_hu, medulla_hu: Of kidneys.
        aorta_hu, cava_hu, liver_hu: Of distractors.
        tumor_hu: Range of a tumor's mean, the same for both diagnoses.
        noise_hu: Standard deviation.
        window_hu: Intensities beyond are cut off.
    """

    shape: Shape3
    spacing_mm: Triple
    cortex_hu: float
    medulla_hu: float
    aorta_hu: float
    cava_hu: float
    liver_hu: float
    tumor_hu: Range
    noise_hu: float
    window_hu: Range


# Arterial phase: bright cortex and aorta. Both styles show 120 x 192 x 192 mm.
PRIMARY = Style(
    shape=(40, 96, 96), spacing_mm=(3.0, 2.0, 2.0), cortex_hu=175.0, medulla_hu=105.0,
    aorta_hu=290.0, cava_hu=95.0, liver_hu=85.0, tumor_hu=(50.0, 100.0), noise_hu=14.0,
    window_hu=(-1024.0, 3071.0),
)  # fmt: skip
# Later phase, thicker slices, a radiologist's window.
AUXILIARY = Style(
    shape=(30, 80, 80), spacing_mm=(4.0, 2.4, 2.4), cortex_hu=165.0, medulla_hu=155.0,
    aorta_hu=150.0, cava_hu=150.0, liver_hu=115.0, tumor_hu=(60.0, 115.0), noise_hu=9.0,
    window_hu=(-200.0, 300.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a diagnosis shows, all relative to the tumor's own size and mean.

    Attributes:
        border: Range of the standard deviation of its radius.
        mottle_hu: Range of short-ranged differences inside.
        slope_hu: Range of what one side has more than the other.
    """

    border: Range
    mottle_hu: Range
    slope_hu: Range


# The spread of intensities is alike; what differs is its scale, and the border, in part.
GROWTHS = {
    BENIGN: Growth(border=(0.02, 0.11), mottle_hu=(0.0, 18.0), slope_hu=(8.0, 26.0)),
    MALIGNANT: Growth(border=(0.05, 0.18), mottle_hu=(13.0, 36.0), slope_hu=(0.0, 14.0)),
}
MOTTLE_MM, BORDER_MM = 1.7, 4.5  # width of the smooth noise that both are made from
REACH = 1.6  # radii that a ragged border may come to


def write_renal_dataset(
    root: Path, *, name: str, style: Style, train: int, test: int, seed: int
) -> None:
    """Write cases of `make_renal` in the nnU-Net v2 raw layout; see `write_cases`.

    `diagnosisTr.csv` and `diagnosisTs.csv` (columns case, diagnosis) lie beside dataset.json.
    """
    make = partial(make_renal, style=style)
    write_cases(
        root, make, name=name, channel="CT", labels=LABELS, train=train, test=test, seed=seed
    )
    for part, indices in (("Tr", range(train)), ("Ts", range(train, train + test))):
        lines = [
            f"case_{index:03d},{draw_diagnosis(np.random.default_rng([seed, index]))}"
            for index in indices
        ]
        write_text("\n".join(["case,diagnosis", *lines]) + "\n", root / f"diagnosis{part}.csv")


def draw_diagnosis(rng: np.random.Generator) -> str:
    """Return the diagnosis of the case that `make_renal` makes of the same fresh generator."""
    return MALIGNANT if rng.random() < 0.5 else BENIGN


def make_renal(rng: np.random.Generator, *, style: Style) -> Phantom:
    """Return one or two kidneys with a tumor on one of them; its voxels are no kidney's.

    Volume and mean of a tumor do not depend on the diagnosis; texture and border do.
    """
    growth = GROWTHS[draw_diagnosis(rng)]
    axes = _axes(style)
    image = _surroundings(axes, style, rng)
    label = np.zeros(style.shape, np.uint8)
    sides = [-1.0, 1.0] if rng.random() >= SINGLE_KIDNEY else [rng.choice([-1.0, 1.0])]
    centers = [_kidney(axes, image, label, side, style=style, rng=rng) for side in sides]
    chosen = int(rng.integers(len(sides)))
    direction = rng.normal(size=3)
    direction[2] = sides[chosen] * abs(direction[2])  # away from the spine
    direction /= np.linalg.norm(direction)
    center = centers[chosen] + rng.uniform(0.6, 0.95) * direction * KIDNEY_RADII
    mean = rng.uniform(*style.tumor_hu)
    box, mask, texture = _tumor(axes, center, growth, style=style, rng=rng)
    image[box][mask] = mean + texture[mask]
    label[box][mask] = TUMOR
    image = ndimage.gaussian_filter(image, BLUR_VOXELS)
    image += rng.normal(0, style.noise_hu, style.shape).astype(np.float32)
    z, y, x = (float(v) for v in rng.uniform(-100, 100, 3))
    geometry = Geometry(shape=style.shape, spacing_mm=style.spacing_mm, origin_mm=(z, y, x))
    return Phantom(image=np.round(image.clip(*style.window_hu)), label=label, geometry=geometry)


def _surroundings(axes: Axes, style: Style, rng: np.random.Generator) -> Floats:
    """Return the body without kidneys: wall, spine, vessels, liver, spleen, bowel."""
    image = np.full(style.shape, AIR_HU, np.float32)
    through = 1000.0  # radius along z of what runs through all slices
    parts = [
        ((0.0, 0.0, 0.0), (through, 84.0, 92.0), FAT_HU),
        ((0.0, 0.0, 0.0), (through, 75.0, 82.0), MUSCLE_HU),
        ((0.0, -3.0, 0.0), (through, 65.0, 72.0), FAT_HU),
        ((0.0, 46.0, 0.0), (through, 14.0, 15.0), BONE_HU),
        ((0.0, 42.0, 22.0), (through, 11.0, 8.0), MUSCLE_HU),
        ((0.0, 42.0, -22.0), (through, 11.0, 8.0), MUSCLE_HU),
        ((0.0, 23.0, 7.0), (through, 7.0, 7.0), style.aorta_hu),
        ((0.0, 22.0, -9.0), (through, 6.0, 8.0), style.cava_hu),
        ((0.0, 20.0, 20.0), (3.5, 3.5, 16.0), style.aorta_hu),
        ((0.0, 20.0, -20.0), (3.5, 3.5, 16.0), style.cava_hu),
        ((30.0, -12.0, -38.0), (38.0, 36.0, 30.0), style.liver_hu),
        ((38.0, 8.0, 52.0), (22.0, 20.0, 14.0), style.liver_hu + 15),
    ]
    for _ in range(rng.integers(3, 7)):  # about as large and bright as tumors
        place = tuple(rng.uniform((-45, -50, -55), (45, 2, 55)))
        parts.append((place, tuple(rng.uniform(6, 13, 3)), rng.uniform(*BOWEL_HU)))
    shift = rng.normal(0, 2.0, 3)
    for center, radii, value in parts:
        size = rng.uniform(0.95, 1.05, 3)
        inside = _squared(axes, np.add(center, shift), size * radii) <= 1
        image[inside] = value + rng.normal(0, 4)
    return image


def _kidney(
    axes: Axes,
    image: Floats,
    label: npt.NDArray[np.uint8],
    side: float,
    *,
    style: Style,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Paint a bent ellipsoid, some with a cyst, which is a part of it; return its center in mm."""
    center = np.array(KIDNEY_CENTER) * (1, 1, side) + rng.uniform(-1, 1, 3) * (10, 4, 4)
    radii = np.array(KIDNEY_RADII) * rng.uniform(0.88, 1.12, 3)
    along = (axes[0] - np.float32(center[0])) / np.float32(radii[0])
    bent = axes[2] + np.float32(side * KIDNEY_BEND) * (along**2 - np.float32(0.3))  # poles inwards
    squared = _squared((axes[0], axes[1], bent), center, radii)
    kidney = squared <= 1
    image[kidney] = style.cortex_hu + rng.normal(0, 8)
    image[squared <= MEDULLA] = style.medulla_hu + rng.normal(0, 8)
    label[kidney] = KIDNEY
    if rng.random() < CYST:
        place = center + rng.uniform(-0.6, 0.6, 3) * radii
        cyst = kidney & (_squared(axes, place, np.full(3, rng.uniform(*CYST_MM))) <= 1)
        image[cyst] = CYST_HU + rng.normal(0, 4)
    return center


def _tumor(
    axes: Axes,
    center: npt.NDArray[np.float64],
    growth: Growth,
    *,
    style: Style,
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], Bools, Floats]:
    """Return a box, where in it the tumor is, and by how much its voxels differ from its mean."""
    box = tuple(
        slice(near[0], near[-1] + 1)
        for near in (
            np.flatnonzero(np.abs(axis - middle) <= REACH * TUMOR_MM[1])
            for axis, middle in zip(axes, center, strict=True)
        )
    )
    z, y, x = axes[0][box[0]], axes[1][:, box[1]], axes[2][:, :, box[2]]
    border = rng.uniform(*growth.border)
    # E[(1 + b·n)³] = 1 + 3b² for standard normal n: a ragged tumor is not larger.
    radius = rng.uniform(*TUMOR_MM) / (1 + 3 * border**2) ** (1 / 3)
    squared = _squared((z, y, x), center, np.full(3, radius))
    swing = 1 + border * _smooth_noise(squared.shape, BORDER_MM, style, rng).clip(-2.5, 2.5)
    parts, _ = ndimage.label(squared <= swing**2)
    nearest = np.unravel_index(int(squared.argmin()), squared.shape)
    mask: Bools = ndimage.binary_fill_holes(parts == parts[nearest])
    direction = rng.normal(size=3).astype(np.float32)
    slope = direction[0] * z + direction[1] * y + direction[2] * x
    mottle = _smooth_noise(squared.shape, MOTTLE_MM, style, rng)
    texture = np.zeros(squared.shape, np.float32)
    for field, span in ((mottle, growth.mottle_hu), (slope, growth.slope_hu)):
        inside = field[mask]
        texture[mask] += rng.uniform(*span) * (inside - inside.mean()) / inside.std()
    return box, mask, texture


def _smooth_noise(
    shape: tuple[int, ...], width_mm: float, style: Style, rng: np.random.Generator
) -> Floats:
    """Return noise of standard deviation 1 that is alike within a few mm."""
    widths = [width_mm / spacing for spacing in style.spacing_mm]
    noise = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), widths)
    scaled: Floats = noise / noise.std()
    return scaled


def _axes(style: Style) -> Axes:
    """Return positions in mm from the middle, along each axis, broadcasting to the grid."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
        for n, s in zip(style.shape, style.spacing_mm, strict=True)
    )
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _squared(axes: Axes, center: npt.ArrayLike, radii: npt.ArrayLike) -> Floats:
    """Return the squared distance from a center in units of the radii, (Z, Y, X)."""
    middle, scale = np.asarray(center, np.float32), np.asarray(radii, np.float32)
    z, y, x = (((axes[i] - middle[i]) / scale[i]) ** 2 for i in range(3))
    total: Floats = z + y + x
    return total
