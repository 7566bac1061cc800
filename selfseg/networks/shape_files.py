"""Shape models of a fold on disk: tensors in safetensors, everything else in JSON; no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from selfseg.errors import ModelError
from selfseg.networks.shape_autoencoder import LinearShape, ShapeAutoencoder, ShapeModel
from selfseg.networks.weights import load_weights, save_weights
from selfseg.records.shape_model import ShapeModelRecord, ShapeModels

LINEAR_PARTS = ("mean", "components", "deviations")


def save_tensors(models: Mapping[int, nn.Module], path: Path) -> None:
    """Write the tensors of models by their position in `ShapeModels.models`."""
    save_weights(
        {
            f"{index}/{name}": value
            for index, model in models.items()
            for name, value in model.state_dict().items()
        },
        path,
    )


def load_accepted(
    record: ShapeModels, path: Path, device: torch.device
) -> tuple[tuple[ShapeModelRecord, ShapeModel], ...]:
    """Load the accepted models, frozen, to a device; with none no file is read.

    Raises:
        ModelError: The file is missing or damaged, or does not fit the record.
    """
    if not any(item.accepted for item in record.models):
        return ()
    tensors = load_weights(path)
    found = []
    for index, item in enumerate(record.models):
        if not item.accepted:
            continue
        prefix = f"{index}/"
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            model = _build(item, record, part)
        except (RuntimeError, KeyError) as error:
            raise ModelError(
                f"{path}: does not fit the shape model of {item.name} ({error})",
                remedy="Train the fold again with --restart.",
            ) from error
        found.append((item, model.to(device)))
    return tuple(found)


def _build(
    item: ShapeModelRecord, record: ShapeModels, tensors: Mapping[str, Tensor]
) -> LinearShape | ShapeAutoencoder:
    if item.kind == "linear":
        mean, components, deviations = (tensors[name] for name in LINEAR_PARTS)
        return LinearShape(mean, components, deviations, record.box_margin)
    model = ShapeAutoencoder(record.grid, item.code, record.box_margin)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)
