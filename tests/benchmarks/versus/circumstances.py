"""Under which circumstances figures were taken: processor, its formats, load, versions."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("selfseg", "nnunetv2", "torch", "batchgeneratorsv2", "numpy", "scipy")
CPU_INFO = Path("/proc/cpuinfo")
WIDE = ("avx", "amx", "fma", "asimd", "sve")  # how names of vector instructions begin


@dataclass(frozen=True)
class Circumstances:
    """What a figure depends on besides the code.

    Attributes:
        cpu, machine: Model and architecture of the processor.
        cores: Logical ones.
        instructions: Vector and matrix instructions, as the system names them.
        bfloat16, float16: Whether it multiplies these natively (AVX512-BF16, AMX).
        load: Processes at work in the last 1, 5 and 15 minutes, when the part began.
        began: UTC.
        command: What was run.
        python, versions: Of Python and the packages on both sides.
    """

    cpu: str
    machine: str
    cores: int
    instructions: tuple[str, ...]
    bfloat16: bool
    float16: bool
    load: tuple[float, ...]
    began: str
    command: str
    python: str
    versions: dict[str, str]


def find_circumstances() -> Circumstances:
    """Return what holds now."""
    from selfseg.networks.precision import cpu_has_native_bfloat16, cpu_has_native_float16

    model, instructions = _processor()
    return Circumstances(
        cpu=model,
        machine=platform.machine(),
        cores=os.cpu_count() or 1,
        instructions=instructions,
        bfloat16=cpu_has_native_bfloat16(),
        float16=cpu_has_native_float16(),
        load=os.getloadavg(),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "versus", *sys.argv[1:]]),
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
    )


def _processor() -> tuple[str, tuple[str, ...]]:
    """Return the model, and the names of the vector instructions; what Python knows elsewhere."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor(), ()
    told = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    names = told.get("flags", told.get("Features", "")).split()
    return (
        told.get("model name", platform.processor()),
        tuple(sorted(name for name in names if name.startswith(WIDE))),
    )
