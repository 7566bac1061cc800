"""Small preprocessed folders and configurations for tests of loading and training."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np

from selfseg.records import serial
from selfseg.records.augmentation import Augmentation
from selfseg.records.geometry import Box, Geometry, Orientation, PreprocessedCase
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import DiceTerm
from selfseg.records.network import UNet
from selfseg.records.optimization import SGD, Optimization, Poly, Recipe
from selfseg.records.plan import Configuration, Inference
from selfseg.records.preprocessing import Preprocessing, ZScore


def make_configuration(
    patch: tuple[int, ...],
    *,
    batch: int = 2,
    channels: int = 1,
    augmentation: Augmentation | None = None,
    inside_mask: bool = False,
) -> Configuration:
    """Return a configuration with a tiny network."""
    dims = len(patch)
    recipe = Recipe(optimizer=SGD(), schedule=Poly())
    return Configuration(
        name="2d" if dims == 2 else "3d_fullres",
        preprocessing=Preprocessing(
            axes=(0, 1, 2),
            spacing_mm=(1.0, 1.0, 1.0),
            normalization=(ZScore(inside_mask=inside_mask),) * channels,
        ),
        median_shape=(32.0, 32.0, 32.0),
        patch=patch,
        batch=batch,
        memory_gib=1.0,
        network=UNet(
            features=(4, 8),
            kernels=((3,) * dims,) * 2,
            strides=((1,) * dims, (2,) * dims),
            convs_encoder=(1, 1),
            convs_decoder=(1,),
        ),
        loss=Loss(terms=(DiceTerm(),)),
        augmentation=augmentation or Augmentation(mirror_axes=tuple(range(dims))),
        optimization=Optimization(recipe=recipe, short_recipe=recipe, short_below_steps=100),
        inference=Inference(),
    )


def write_case(folder: Path, case: str, image: np.ndarray, label: np.ndarray) -> None:
    """Store one case as preprocessing does; labels 1 to the largest get locations."""
    folder.mkdir(parents=True, exist_ok=True)
    blosc2.asarray(image.astype(np.float32), urlpath=str(folder / f"{case}.b2nd"), mode="w")
    blosc2.asarray(label.astype(np.int16), urlpath=str(folder / f"{case}_label.b2nd"), mode="w")
    found = [np.argwhere(label == k).astype(np.int32) for k in range(1, int(label.max()) + 1)]
    rows = np.concatenate([*found, np.empty((0, 3), np.int32)])
    np.save(folder / f"{case}_locations.npy", rows)
    z, y, x = label.shape
    shape = (z, y, x)
    record = PreprocessedCase(
        id=case,
        source="",
        native=Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0)),
        orientation=Orientation(),
        axes=(0, 1, 2),
        crop=Box(lower=(0, 0, 0), upper=shape),
        shape_before_crop=shape,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
        num_locations=tuple(len(voxels) for voxels in found),
    )
    serial.save(record, folder / f"{case}.json")


def make_folder(
    folder: Path,
    *,
    cases: int = 3,
    shape: tuple[int, int, int] = (24, 30, 28),
    channels: int = 1,
    seed: int = 0,
) -> tuple[str, ...]:
    """Write cases with two boxes as labels; image values are 10 · label + noise below 1."""
    rng = np.random.default_rng(seed)
    ids = tuple(f"case_{index}" for index in range(cases))
    for case in ids:
        label = np.zeros(shape, np.int16)
        for value in (1, 2):
            low = [int(rng.integers(0, size // 2)) for size in shape]
            label[tuple(slice(at, at + size // 3) for at, size in zip(low, shape, strict=True))] = (
                value
            )
        image = 10.0 * label + rng.random((channels, *shape))
        write_case(folder, case, image, label)
    return ids
