"""Generated lesions of two textures in organs, and the commands that classify them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from lesiontable import EVERY, small_plan
from scipy import ndimage
from typer.testing import CliRunner

from selfseg.cli.main import app
from selfseg.io.images import write_label_map, write_volume
from selfseg.records.classification import ClassificationFacts, ClassificationPlan
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation

GEOMETRY = Geometry(shape=(10, 20, 20), spacing_mm=(2.0, 1.0, 1.0))
LABELS = (Label(name="organ", value=1), Label(name="tumor", value=2))
PATIENTS = 20


class SmallPlanner:
    """Few trees, few folds."""

    facts: ClassificationFacts

    def decide_classification(self, facts: ClassificationFacts) -> ClassificationPlan:
        SmallPlanner.facts = facts
        return small_plan(*EVERY[1:], trees=8, outer=3, inner=2)


def place(case: int, lesion: int) -> tuple[int, int, int]:
    return (5, 5 + 9 * lesion, 6 + case % 3 + 4 * lesion)


def is_malignant(case: int, lesion: int) -> bool:
    return (case + lesion) % 2 == 0


def write_case(root: Path, case: int) -> None:
    """Write an organ with two lesions, of which a malignant one has coarse bright spots."""
    rng = np.random.default_rng(case)
    image, indices = rng.normal(40, 10, GEOMETRY.shape), np.zeros(GEOMETRY.shape, np.int16)
    indices[:, 2:18, 2:18] = 1
    z, y, x = np.meshgrid(*map(np.arange, GEOMETRY.shape), indexing="ij")
    spots = ndimage.gaussian_filter(rng.normal(size=GEOMETRY.shape), 1.2) * 200
    for lesion in range(2):
        center = place(case, lesion)
        radius = 4.2 if lesion == 0 else 3.2  # the first is the larger component
        ball = 4 * (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 <= radius**2
        indices[ball] = 2
        if is_malignant(case, lesion):
            image[ball] += spots[ball]
    image = image.astype(np.float32)
    name, orientation = f"case{case:02d}", Orientation()
    split = "Tr" if case < PATIENTS else "Ts"
    path = root / f"labels{split}" / f"{name}.nii.gz"
    write_label_map(indices, LABELS, native=GEOMETRY, orientation=orientation, path=path)
    path = root / f"images{split}" / f"{name}_0000.nii.gz"
    write_volume(image, native=GEOMETRY, orientation=orientation, path=path)


def write_lesions(root: Path) -> Path:
    """Write training and test cases with their description and the classes of their lesions."""
    for case in range(PATIENTS + 6):
        write_case(root, case)
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "tumor": 2},
        "numTraining": PATIENTS,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    for split, cases in (("Tr", range(PATIENTS)), ("Ts", range(PATIENTS, PATIENTS + 6))):
        lines = [
            f"case{case:02d},{lesion + 1},{'malignant' if is_malignant(case, lesion) else 'benign'}"
            for case in cases
            for lesion in range(2)
        ]
        (root / f"lesions{split}.csv").write_text("\n".join(["case,lesion,diagnosis", *lines]))
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["classify", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def train(data: Path, output: Path, *more: object) -> str:
    return run(
        "train", "-i", data / "imagesTr", "-p", data / "labelsTr", "-l", data / "lesionsTr.csv",
        "--label-column", "diagnosis", "--positive", "malignant", "--region", "tumor",
        "-o", output, "--workers", 1, *more,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))
