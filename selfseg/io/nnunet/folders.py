"""Which trained folds a folder of nnU-Net's holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import ModelError

PLANS, DATASET = "plans.json", "dataset.json"
# The last one is what prediction uses by default; the best one stands where a run was stopped.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
DEEPEST = 3  # folders between what is given and a model
_FOLD = re.compile(r"fold_(all|\d{1,4})")


@dataclass(frozen=True)
class FoldFile:
    """The checkpoint of one fold."""

    fold: str
    checkpoint: Path


@dataclass(frozen=True)
class ModelFolder:
    """A folder with plans.json, dataset.json and at least one fold."""

    path: Path
    folds: tuple[FoldFile, ...]


def find_model_folders(root: Path) -> tuple[ModelFolder, ...]:
    """Return the models in a folder: itself, or those in it.

    Raises:
        ModelError: There is none, or one without a finished fold.
    """
    folders = [root] if (root / PLANS).is_file() else _below(root, DEEPEST)
    found = tuple(ModelFolder(folder, _folds(folder)) for folder in folders)
    if not found:
        raise ModelError(
            f"{root}: no model of nnU-Net v2 in it",
            remedy=f"Give a folder or zip that has {PLANS}, {DATASET} and fold_0/{CHECKPOINTS[0]}.",
        )
    for model in found:
        if not (model.path / DATASET).is_file() or not model.folds:
            missing = f"no fold_*/{CHECKPOINTS[0]}" if model.folds == () else f"no {DATASET}"
            raise ModelError(
                f"{model.path}: {missing}",
                remedy="Bring what is missing from where it was trained.",
            )
    return found


def _below(root: Path, depth: int) -> list[Path]:
    if not depth or not root.is_dir():
        return []
    found = []
    for path in sorted(item for item in root.iterdir() if item.is_dir()):
        found += [path] if (path / PLANS).is_file() else _below(path, depth - 1)
    return found


def _folds(folder: Path) -> tuple[FoldFile, ...]:
    found = []
    for path in sorted(folder.iterdir()):
        match = _FOLD.fullmatch(path.name)
        files = [path / name for name in CHECKPOINTS if (path / name).is_file()]
        if match and files:
            fold = match[1] if match[1] == "all" else str(int(match[1]))
            found.append(FoldFile(fold, files[0]))
    return tuple(found)
