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
    """Return the reduced format that loses least: float16 where the device computes fast in it.

    nnU-Net trains and predicts in float16 on GPUs, so its networks stay within its range.

    Args:
        device: Where the network runs.

    Returns:
        The format for `torch.autocast`, or None for plain float32.
    """
    native = device.type == "cuda" or (device.type == "cpu" and cpu_has_native_float16())
    return torch.float16 if native else None


def cpu_has_native_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return _cpu_has(
        ("avx512_bf16", "amx_bf16"), ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def cpu_has_native_float16() -> bool:
    """Return whether this CPU multiplies float16 as fast as bfloat16 (AMX-FP16)."""
    return _cpu_has(("amx_fp16",), ("_is_amx_fp16_supported",))


def _cpu_has(capabilities: tuple[str, ...], checks: tuple[str, ...]) -> bool:
    """Tell whether the CPU has one of some capabilities, or passes one of torch's own checks."""
    known = getattr(torch.cpu, "get_capabilities", None)  # torch before 2.12 lacks it
    if known is not None:
        found = known()
        return any(found.get(name, False) for name in capabilities)
    asked = (getattr(torch.cpu, name, None) for name in checks)
    return any(check is not None and bool(check()) for check in asked)


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
