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


def test_cpu_capabilities_are_read_or_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert precision.cpu_has_native_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not precision.cpu_has_native_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision.cpu_has_native_bfloat16()


def test_unknown_devices_stay_in_float32() -> None:
    dtype, reason = precision.autocast_dtype(torch.device("meta"))
    assert dtype is None
    assert "meta" in reason


def test_fine_is_float16_on_a_gpu_and_float32_elsewhere() -> None:
    assert precision.fine_dtype(torch.device("cuda:0")) is torch.float16
    assert precision.fine_dtype(torch.device("cpu")) is None
