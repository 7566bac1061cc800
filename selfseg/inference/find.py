"""Find what is trained in a folder, and choose one model of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import ModelError
from selfseg.inference.trained import trained_folds
from selfseg.records import serial
from selfseg.records.plan import Configuration, Plan
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import dataset_folder


@dataclass(frozen=True)
class Candidate:
    """A configuration with trained folds that could be loaded."""

    folder: DatasetFolder
    plan: Plan
    configuration: Configuration
    folds: tuple[str, ...]

    def describe(self) -> str:
        """Return the options that choose this model."""
        note = f"folds: {', '.join(self.folds)}"
        if (stage := self.configuration.previous_stage) is not None:
            note += f"; after {stage}, folds: {', '.join(trained_folds(self.folder, stage)) or '-'}"
        folder = shlex.quote(str(self.folder.path))
        return f"-m {folder} --config {self.configuration.name} ({note})"


def find_models(folder: Path) -> tuple[Candidate, ...]:
    """Return every configuration with at least one trained fold in a folder or workspace."""
    found = []
    for dataset in dataset_folders(folder):
        plan = serial.load(Plan, dataset.plan)
        for configuration in plan.configurations:
            folds = trained_folds(dataset, configuration.name)
            if folds:
                found.append(Candidate(dataset, plan, configuration, folds))
    return tuple(found)


def choose_model(folder: Path, configuration: str | None, folds: Sequence[str] | None) -> Candidate:
    """Return the one model of a folder that fits what was asked for.

    Raises:
        ModelError: There is no such model, or more than one; the message lists what there is.
    """
    if not folder.exists():
        raise ModelError(
            f"{folder}: no such folder or model file, and no data set of that name is planned",
            remedy="Check the path, or the name and --workspace; or run 'selfseg train' first.",
        )
    trained = find_models(folder)
    folders = dict.fromkeys(candidate.folder for candidate in trained)
    lines = [
        *(
            f"-m {shlex.quote(str(found.path))} (what 'selfseg select' chose)"
            for found in folders
            if found.selection.is_file()
        ),
        *(candidate.describe() for candidate in trained),
    ]
    listing = "".join(f"\n  • {line}" for line in lines) or " nothing"
    fitting = [
        candidate
        for candidate in trained
        if configuration in (None, candidate.configuration.name)
        and set(folds or ()) <= set(candidate.folds)
    ]
    if len(fitting) == 1:
        return fitting[0]
    asked = " ".join(
        ["model", *([configuration] if configuration else [])]
        + ([f"with folds {','.join(folds)}"] if folds else [])
    )
    if fitting:
        raise ModelError(
            f"{folder}: several trained models; trained there:{listing}",
            remedy="Choose one with -m and --config, or let 'selfseg select' choose the best.",
        )
    above = next((path for path in folder.parents if DatasetFolder(path).plan.is_file()), None)
    if trained:
        remedy = "Choose one that is there."
    elif above is not None:
        remedy = f"Give the folder that holds plan.json, -m {above}, with --config and --folds."
    elif (folder / "plans.json").is_file() or any(folder.glob("*/plans.json")):
        remedy = (
            f"A model of nnU-Net is imported once: 'selfseg import {shlex.quote(str(folder))}'."
        )
    else:
        remedy = "Give a folder with plan.json and models/, or run 'selfseg train' first."
    raise ModelError(f"{folder}: no trained {asked}; trained there:{listing}", remedy=remedy)


def dataset_folders(folder: Path) -> list[DatasetFolder]:
    """Return the dataset folders that a path means: itself, its parent, or its children."""
    for path in (folder, folder.parent):
        candidate = DatasetFolder(path)
        if candidate.plan.is_file() and (path == folder or candidate.models == folder):
            return [candidate]
    pattern = dataset_folder(Path(), "*").plan
    return [DatasetFolder(plan.parent) for plan in sorted(folder.glob(str(pattern)))]
