"""Open what a plan or a training starts from: folders of ours, model files, models of nnU-Net."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg.errors import ModelError
from selfseg.requests import StartRequest

if TYPE_CHECKING:
    from selfseg.training.transfer import SourceModel


@contextmanager
def opened_start(
    request: StartRequest, *, like: tuple[str, str] | None = None
) -> Iterator[SourceModel]:
    """Give the model that is asked for; its files may be temporary ones.

    Args:
        request: Which one.
        like: Configuration and fold that are to be trained.

    Raises:
        ModelError: There is no such model, or several without a choice.
    """
    from selfseg.training.start import open_source

    with _readable(request.folder) as folder:
        source = open_source(folder, request.configuration, request.fold, like=like)
        if folder != request.folder:
            named = source.model.model_copy(update={"folder": str(request.folder)})
            source = replace(source, model=named)
        yield source


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Give a folder of ours with the model that lies at a path."""
    from selfseg.importing import import_model

    if not _is_foreign(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="selfseg-model-") as name:
        yield import_model(path, output=Path(name) / "model", workspace=Path(name)).folder


def _is_foreign(path: Path) -> bool:
    """Tell whether a model has to be unpacked or imported; False where there is none at all."""
    from selfseg.inference.find import find_models
    from selfseg.io.nnunet.folders import find_model_folders
    from selfseg.workspace import PretrainedFolder

    if path.is_file():
        return True
    if PretrainedFolder(path).weights.is_file() or find_models(path):
        return False
    try:
        return bool(find_model_folders(path))
    except ModelError:
        return False
