"""A generated case, and writing a dataset of them in the nnU-Net v2 raw layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.serial import write_text


@dataclass(frozen=True)
class Phantom:
    """One generated case.

    Attributes:
        image: Intensities, (Z, Y, X).
        label: Label indices, 0 is background, (Z, Y, X).
        geometry: Grid of both.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    geometry: Geometry


def write_cases(  # noqa: PLR0913 (what a dataset consists of)
    root: Path,
    make: Callable[[np.random.Generator], Phantom],
    *,
    name: str,
    channel: str,
    labels: Sequence[Label],
    train: int,
    test: int,
    seed: int,
) -> None:
    """Make and write cases one by one, with references for all of them.

    Args:
        root: Folder to fill: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json.
        make: Makes a case.
        name: Name in dataset.json.
        channel: Name of the only channel.
        labels: Foreground labels.
        train: Number of training cases; they come first.
        test: Number of test cases.
        seed: Seed; case i depends on (seed, i) only.
    """
    from selfseg.io.images import write_label_map, write_volume

    for index in range(train + test):
        phantom = make(np.random.default_rng([seed, index]))
        part = "Tr" if index < train else "Ts"
        native, orientation = phantom.geometry, Orientation()
        case = f"case_{index:03d}"
        image_path = root / f"images{part}" / f"{case}_0000.nii.gz"
        label_path = root / f"labels{part}" / f"{case}.nii.gz"
        for path in (image_path, label_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(phantom.image, native=native, orientation=orientation, path=image_path)
        write_label_map(
            phantom.label, labels, native=native, orientation=orientation, path=label_path
        )
    described = {
        "name": name,
        "channel_names": {"0": channel},
        "labels": {"background": 0, **{label.name: label.value for label in labels}},
        "numTraining": train,
        "file_ending": ".nii.gz",
    }
    write_text(json.dumps(described, indent=1) + "\n", root / "dataset.json")
