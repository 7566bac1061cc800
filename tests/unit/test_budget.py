"""Devices that a budget cannot be made for are named, never a traceback."""

from __future__ import annotations

from typing import NoReturn

import pytest

from selfseg import budget
from selfseg.errors import DeviceError


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "mps", "CPU", ""])
@pytest.mark.parametrize("memory", [None, "8GB"])
def test_unknown_device(device: str, memory: str | None) -> None:
    with pytest.raises(DeviceError, match=f"--device {device}: not supported") as error:
        budget.detect_budget(memory, device)
    assert "cuda:0" in error.value.remedy


def test_device_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(index: int) -> NoReturn:
        raise AssertionError(f"Invalid device id {index}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", refuse)
    with pytest.raises(DeviceError, match="--device cuda:7: torch sees 2 CUDA devices"):
        budget.detect_budget(None, "cuda:7")
