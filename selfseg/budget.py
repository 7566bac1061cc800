"""What a plan must fit: memory from the option or from the device; loads torch only for CUDA."""

from __future__ import annotations

import ctypes
import logging
import re

from selfseg.errors import DeviceError, SelfSegError
from selfseg.execution.resources import machine_memory_gib
from selfseg.records.plan import Budget
from selfseg.words import counted

log = logging.getLogger(__name__)

MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m)?", re.IGNORECASE)
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
CPU_DEFAULT_GIB = 8.0
# Published residual-encoder plans gain nothing beyond 24 GB (nnU-Net Revisited); more is asked for
# with --memory.
LARGEST_DEFAULT_GIB = 24.0
# Published plans take up to 15 % more than their target (9.1 GB for the residual one at 8 GB).
DEFAULT_SHARE = 0.8


def parse_gib(text: str, option: str) -> float:
    """Return GiB for `4GB`, `500MB` (a bare number is GB; GB and GiB mean the same here).

    Args:
        text: What was written.
        option: The option that it was written for, which errors name.

    Raises:
        SelfSegError: It is no amount; or it has no unit, and would be more than this machine has.
    """
    match = MEMORY.fullmatch(text.strip())
    per_unit = 1 / 1024 if match and (match[2] or "g").lower().startswith("m") else 1.0
    gib = float(match[1]) * per_unit if match else 0.0
    if match is None or gib <= 0:
        raise SelfSegError(f"{option} {text}: not an amount", remedy="Write 4GB or 500MB.")
    if match[2] is None and gib > (machine := machine_memory_gib()):
        number = match[1]
        raise SelfSegError(
            f"{option} {text}: without a unit it is GB, and this machine has {machine:.1f} GB",
            remedy=f"Write {number}MB, or {number}GB if that is meant.",
        )
    return gib


def detect_budget(memory: str | None, device: str) -> Budget:
    """Return the budget of a plan.

    Args:
        memory: What `--memory` says, such as `8GB`; None takes the device's, at most 24 GiB, and
            8 on a CPU.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; a plan for CUDA can be made without one if
            `memory` is given.

    Raises:
        SelfSegError: No amount of memory; no such device.
    """
    if not DEVICE.fullmatch(device):
        raise DeviceError(
            f"--device {device}: not supported", remedy="Write auto, cpu, cuda or cuda:0."
        )
    asked = None if memory is None else parse_gib(memory, "--memory")
    if device == "cpu" or (device == "auto" and not _has_driver()):
        return Budget(memory_gib=asked or CPU_DEFAULT_GIB, device="cpu")
    if device != "auto" and asked is not None:
        return Budget(memory_gib=asked, device="cuda")
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return Budget(memory_gib=asked or CPU_DEFAULT_GIB, device="cpu")
        raise SelfSegError(
            f"--device {device}: torch {torch.__version__} sees no CUDA device",
            remedy="Name the memory to plan for (--memory 24GB), or use --device cpu.",
        )
    index = torch.device(device if device != "auto" else "cuda").index or 0
    try:
        total = torch.cuda.get_device_properties(index).total_memory / 2**30
    except (AssertionError, RuntimeError) as error:  # torch's ways to say that it has fewer
        raise DeviceError(
            f"--device {device}: torch sees {counted(torch.cuda.device_count(), 'CUDA device')}",
            remedy="Write auto, cpu, cuda or cuda:0.",
        ) from error
    default = min(round(total * DEFAULT_SHARE, 1), LARGEST_DEFAULT_GIB)
    return Budget(memory_gib=asked or default, device="cuda")


def _has_driver() -> bool:
    """Tell whether an NVIDIA driver is installed; far cheaper than importing torch."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
