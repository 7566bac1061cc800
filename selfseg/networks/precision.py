"""Which number format a device computes fast in: the one place that asks the hardware."""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache(maxsize=16)
def autocast_dtype(device: torch.device) -> tuple[torch.dtype | None, str]:
    """Return the reduced format for automatic mixed precision on a device.

    A CPU without bfloat16 instructions emulates the format and is slower with it than in
    float32; the answer is therefore about native support, not about what would run.

    Args:
        device: Where the network runs.

    Returns:
        The format for `torch.autocast`, or None for plain float32; and the reason in words.
    """
    if device.type == "cuda":
        return _cuda_format(torch.cuda.get_device_capability(device))
    if device.type == "cpu":
        return _cpu_format(cpu_has_native_bfloat16())
    return None, f"float32: no rule for devices of type {device.type}"


def fine_dtype(device: torch.device) -> torch.dtype | None:
    """Return the reduced format that loses least: float16 on a CUDA device; None: no reduced one.

    nnU-Net predicts in these.
    """
    return torch.float16 if device.type == "cuda" else None


def cpu_has_native_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch before 2.12 lacks it
    if capabilities is not None:
        known = capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = (getattr(torch.cpu, name, None) for name in names)
    return any(check is not None and bool(check()) for check in checks)


def _cuda_format(capability: tuple[int, int]) -> tuple[torch.dtype | None, str]:
    generation = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return torch.bfloat16, f"bfloat16: tensor cores support it ({generation})"
    if capability >= (7, 0):
        return torch.float16, f"float16: tensor cores without bfloat16 ({generation})"
    return None, f"float32: no tensor cores ({generation})"


def _cpu_format(native: bool) -> tuple[torch.dtype | None, str]:
    if native:
        return torch.bfloat16, "bfloat16: the CPU has AVX512-BF16 or AMX"
    return None, "float32: the CPU has no bfloat16 instructions"
