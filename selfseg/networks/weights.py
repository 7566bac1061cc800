"""Tensors to a safetensors file and back; atomic on writing, no code on reading."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfseg.errors import ModelError
from selfseg.files import arriving


def save_weights(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (and text metadata) so that the file is the old one or the whole new one."""
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata else None,
    )
    with arriving(path) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file to the CPU.

    Raises:
        ModelError: The file is missing, truncated or no safetensors file.
    """
    return load_with_metadata(path)[0]


def load_with_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a file to the CPU, and its text metadata.

    Raises:
        ModelError: The file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            return tensors, dict(stream.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path}: no readable safetensors file ({error})",
            remedy="Copy the file again, or train the fold again with --restart.",
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text metadata of a file, and no tensor.

    Raises:
        ModelError: The file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            return dict(stream.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path}: no readable safetensors file ({error})", remedy="Copy the file again."
        ) from error
