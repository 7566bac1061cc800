"""A device that is none: work on the CPU which is given to it as to a CUDA device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from selfseg.augmentation.gpu import apply_batch
from selfseg.loading import held, on_device


class Other:
    """Stands for a CUDA device."""

    type = "other"


def pretend_device(monkeypatch: pytest.MonkeyPatch, free_bytes: float = 0.0) -> Other:
    """Return a device with so much free memory; what is brought to it stays on the CPU."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(on_device, "_side_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(held, "free_bytes", lambda _: free_bytes)
    monkeypatch.setattr(held, "to_device", lambda array, _: torch.from_numpy(array))

    def apply(*arguments: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        there = {**options, "device": torch.device("cpu")}
        return apply_batch(*arguments, **there)  # type: ignore[arg-type]

    monkeypatch.setattr(on_device, "apply_batch", apply)
    return Other()
