"""The format of numbers follows what the hardware multiplies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from selfseg.networks import precision


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), None),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_cuda_format_follows_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    precision.autocast_dtype.cache_clear()
    dtype, reason = precision.autocast_dtype(torch.device("cuda:0"))
    precision.autocast_dtype.cache_clear()
    assert dtype is expected
    assert f"{capability[0]}.{capability[1]}" in reason


@pytest.mark.parametrize("native", [True, False])
def test_cpu_computes_in_bfloat16_only_where_native(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(precision, "cpu_has_native_bfloat16", lambda: native)
    precision.autocast_dtype.cache_clear()
    dtype, reason = precision.autocast_dtype(torch.device("cpu"))
    precision.autocast_dtype.cache_clear()
    assert dtype is (torch.bfloat16 if native else None)
    assert reason.startswith("bfloat16" if native else "float32")


@pytest.mark.parametrize(
    ("asked", "capability", "check"),
    [
        (precision.cpu_has_native_bfloat16, "avx512_bf16", "_is_avx512_bf16_supported"),
        (precision.cpu_has_native_bfloat16, "amx_bf16", "_is_amx_tile_supported"),
        (precision.cpu_has_native_float16, "amx_fp16", "_is_amx_fp16_supported"),
    ],
)
def test_cpu_capabilities_are_read_or_guessed(
    monkeypatch: pytest.MonkeyPatch, asked: Callable[[], bool], capability: str, check: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert asked()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_fp16": True}, raising=False)
    assert not asked()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda found=name == check: found, raising=False)
    assert asked()
    monkeypatch.setattr(torch.cpu, check, lambda: False)
    assert not asked()


def test_unknown_devices_stay_in_float32() -> None:
    dtype, reason = precision.autocast_dtype(torch.device("meta"))
    assert dtype is None
    assert "meta" in reason


@pytest.mark.parametrize("native", [True, False])
def test_fine_is_float16_where_that_is_fast(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(precision, "cpu_has_native_float16", lambda: native)
    assert precision.fine_dtype(torch.device("cuda:0")) is torch.float16
    assert precision.fine_dtype(torch.device("cpu")) is (torch.float16 if native else None)
    assert precision.fine_dtype(torch.device("meta")) is None
