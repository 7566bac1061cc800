"""Amounts of memory, and devices that a budget cannot be made for: named, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
from tinymodel import save_model, tiny_plan

from selfseg import budget, plan
from selfseg.errors import DeviceError, SelfSegError
from selfseg.pipeline import plan_dataset, predict_images
from selfseg.requests import PlanRequest, PredictRequest, RunRequest, StartRequest
from selfseg.running import run_dataset


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a machine with 24 GiB."""
    monkeypatch.setattr(budget, "machine_memory_gib", lambda: 24.0)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("text", "gib"),
    [("4GB", 4.0), ("8", 8.0), (" 24 gib ", 24.0), ("1.5g", 1.5), ("512MB", 0.5), ("512 m", 0.5),
     ("24", 24.0), ("80GB", 80.0)],
)  # fmt: skip
def test_amounts_of_memory(text: str, gib: float) -> None:
    assert budget.parse_gib(text, "--memory") == gib


@pytest.mark.parametrize("text", ["", "much", "0GB", "-4GB", "4TB", "4 GB RAM", "1e3"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(SelfSegError, match=f"^--max-memory {text}: not an amount"):
        budget.parse_gib(text, "--max-memory")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("text", ["700", "24.5"])
def test_a_number_without_unit_beyond_the_machine_is_asked_about(text: str) -> None:
    with pytest.raises(SelfSegError, match=f"^--memory {text}: without .* has 24.0 GB\n") as error:
        budget.parse_gib(text, "--memory")
    assert error.value.remedy == f"Write {text}MB, or {text}GB if that is meant."


def test_a_wrong_amount_is_told_before_any_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> NoReturn:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(plan, "opened_start", opened)
    model = save_model(tmp_path / "model", tiny_plan()).path
    start = StartRequest(model)
    with pytest.raises(SelfSegError, match="--memory abc: not an amount"):
        plan_dataset(str(tmp_path), tmp_path, PlanRequest(memory="abc", start=start))
    with pytest.raises(SelfSegError, match="--memory abc: not an amount"):
        run_dataset(str(tmp_path), tmp_path, RunRequest(memory="abc", start=start))
    with pytest.raises(SelfSegError, match="--memory abc: not an amount"):  # planned already
        run_dataset("model", tmp_path, RunRequest(memory="abc"))
    nothing = tmp_path / "nothing"
    wanted = PredictRequest(source=nothing, output=nothing, model=nothing, max_memory="abc")
    with pytest.raises(SelfSegError, match="--max-memory abc: not an amount"):
        predict_images(wanted)


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
