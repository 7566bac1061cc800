"""Weights to a file and back: exact, atomic, and a clear message for damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from selfseg.errors import ModelError
from selfseg.networks.weights import load_weights, load_with_metadata, save_weights

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def test_round_trip_is_exact_for_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "w.safetensors"
    strided = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_weights({**TENSORS, "strided": strided}, path, {"note": "text"})
    found, metadata = load_with_metadata(path)
    assert metadata == {"note": "text"}
    for name, tensor in {**TENSORS, "strided": strided}.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_interrupted_write_keeps_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(TENSORS, path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_weights({"a": torch.zeros(1000)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "pickle"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(TENSORS, path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-5], "pickle": b"\x80\x04."}[damage])
    with pytest.raises(ModelError, match=r"w\.safetensors") as caught:
        load_weights(path)
    assert caught.value.remedy
