"""A workspace with simulated members: references and stored held-out probabilities, no networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
from tinymodel import LABELS, tiny_configuration, tiny_plan, trained_fold

from selfseg.evaluation.table import metrics_table
from selfseg.inference.trained import PlannedDataset, files_digest
from selfseg.io.store import save_slabs
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File, Region
from selfseg.records.plan import Configuration
from selfseg.records.selection import ValidationTiming
from selfseg.workspace.dataset import DatasetFolder

Indices = npt.NDArray[np.uint8]
SHAPE = (8, 16, 20)
SPACING_MM = (2.0, 1.0, 1.0)
# From a reference and a case's number to the probabilities (labels, z, y, x) of a member.
Simulated = Callable[[Indices, int], npt.NDArray[np.float64]]
# From a reference and a case's number to an image (z, y, x).
Painted = Callable[[Indices, int], npt.NDArray[np.float64]]


def reference(index: int) -> Indices:
    """Return a block of the first label and one of the second, different in every case."""
    label = np.zeros(SHAPE, np.uint8)
    shift = index % 4
    label[2:6, 3 + shift : 9 + shift, 3:9] = 1
    label[2:6, 3:9, 12 - shift : 17 - shift] = 2
    return label


def one_hot(label: Indices) -> npt.NDArray[np.float64]:
    """Return certain probabilities (2, z, y, x) of a label map."""
    return np.stack([label == 1, label == 2]).astype(np.float64)


def write_members(
    folder: Path,
    members: Mapping[str, Simulated],
    *,
    cases: int = 8,
    folds: Mapping[str, tuple[str, ...]] | None = None,
    seconds: Mapping[str, float] | None = None,
    paint: Painted | None = None,
    regions: tuple[Region, ...] = (),
) -> PlannedDataset:
    """Write everything that a selection reads; case i is held out by fold i modulo 4.

    Images are written with `paint` only. With `regions` members give their probabilities.
    """
    dataset = DatasetFolder(folder / "phantom")
    plan = tiny_plan(*(_configuration(name) for name in members))
    plan = plan.model_copy(update={"regions": regions})
    serial.save(plan, dataset.plan)
    ids = [f"case_{i}" for i in range(cases)]
    data = Dataset(
        name="phantom",
        root=str(folder / "data"),
        layout="nnunet",
        channels=("channel 0",),
        labels=LABELS,
        cases=tuple(
            Case(
                id=name,
                images=() if paint is None else (File(path=f"{name}_0000.nii.gz"),),
                reference=File(path=f"{name}.nii.gz"),
            )
            for name in ids
        ),
        regions=regions,
    )
    known = PlannedDataset(dataset, plan, data)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(ids):
        _write_reference(reference(index), folder / "data" / f"{name}.nii.gz")
        if paint is not None:
            _write(paint(reference(index), index), folder / "data" / f"{name}_0000.nii.gz")
    for configuration in plan.configurations:
        simulate = members[configuration.name]
        for fold in (folds or {}).get(configuration.name, ("0", "1", "2", "3")):
            files = dataset.fold(configuration.name, fold)
            held_out = [i for i in range(cases) if str(i % 4) == fold]
            train = tuple(name for i, name in enumerate(ids) if i not in held_out)
            description = trained_fold(
                plan,
                configuration,
                fold,
                train=train,
                held_out=[ids[i] for i in held_out],
                data_digest=files_digest(data, train),
            )
            serial.save(description, files.description)
            files.weights.write_bytes(f"{configuration.name} {fold}".encode())
            basis = known.validation_basis(configuration, fold, description.validation_cases)
            scores = metrics_table([], [label.name for label in LABELS])
            serial.save(scores.model_copy(update={"basis": basis}), files.scores)
            taken_s = (seconds or {}).get(configuration.name, 1.0) * len(held_out)
            serial.save(ValidationTiming(cases=len(held_out), seconds=taken_s), files.timing)
            for i in held_out:
                _store(simulate(reference(i), i), files.case_probabilities(ids[i]))
    return known


def _configuration(name: str) -> Configuration:
    return tiny_configuration().model_copy(update={"name": name})


def _write_reference(label: Indices, path: Path) -> None:
    values = np.array([0, *(item.value for item in LABELS)], np.uint8)
    _write(values[label], path)


def _write(array: npt.NDArray[np.generic], path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, str(path))


def _store(probabilities: npt.NDArray[np.float64], path: Path) -> None:
    stored = np.round(probabilities * 255).astype(np.uint8)
    save_slabs(lambda channel, z, y: stored[channel, z, y], stored.shape, path)
