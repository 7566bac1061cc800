"""The peak of memory that a training tells: of network and steps, near what the plan expects."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trainingpeak

from selfseg.networks.precision import cpu_has_native_bfloat16
from selfseg.training.memory_use import MemoryUse

NATIVE = pytest.mark.skipif(
    not cpu_has_native_bfloat16(), reason="this CPU has no bfloat16 instructions"
)
SCRIPT = """
import resource
import numpy as np, torch
from selfseg.training.memory_use import MemoryUse
earlier = np.ones(2**30 // 8)  # of another training: has no part
del earlier
use = MemoryUse(torch.device("cpu"))
network = np.ones(2**27 // 8)
use.data_follows()
data = np.ones(2**28 // 8)
use.steps_follow()
for _ in range(3):
    step = np.ones(2**29 // 8)
    del step
    use.step_made()
print(use.peak_gib())
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step = np.ones(2**29 // 8)
    del step
    use.step_made()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
print(use.peak_gib())
again = MemoryUse(torch.device("cpu"))  # of another training: has what was kept returned
again.data_follows()
again.steps_follow()
step = np.ones(2**28 // 8)
print(again.peak_gib())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts no peak")
def test_network_and_steps_count_and_data_do_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    shown, faults, later, again = map(float, done.stdout.split())
    assert abs(shown - (2**27 + 2**29) / 2**30) < 0.03
    assert later == shown
    assert abs(again - 2**28 / 2**30) < 0.03
    if platform.libc_ver()[0] == "glibc":
        # The first array takes new pages, once; each would else.
        assert faults < 1.2 * 2**29 / mmap.PAGESIZE


def test_on_cuda_neither_data_nor_what_was_tried_before_the_steps_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gib, held, peak = 2**30, [0], [0]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peak[0])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda _: peak.__setitem__(0, held[0])
    )
    use = MemoryUse(torch.device("cuda", 0))
    peak[0] = 9 * gib  # layouts and algorithms
    held[0] = gib  # the network
    use.data_follows()
    held[0] = 5 * gib  # cases that stay on the device
    use.steps_follow()
    assert use.peak_gib() == 1.0
    peak[0] = 7 * gib
    assert use.peak_gib() == 3.0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts no peak")
@pytest.mark.parametrize(
    ("features", "patch", "classes", "form"),
    [
        ("8-16-32", "40x40x40", "3", "float32"),
        ("8-16-32", "160x160", "3", "float32"),
        ("4-8-16", "32x32x32", "20", "float32"),
        pytest.param("16-32-64-128", "40x56x40", "3", "bfloat16", marks=NATIVE),
        pytest.param("4-8-16", "32x32x32", "20", "bfloat16", marks=NATIVE),
    ],
)
def test_the_estimate_is_near_what_steps_take(
    features: str, patch: str, classes: str, form: str
) -> None:
    done = subprocess.run(
        [sys.executable, trainingpeak.__file__, features, patch, classes, form],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak_mib, estimate_mib = map(float, done.stdout.split())
    # what the allocator cannot give back is some MiB by chance, which counts in toys
    assert estimate_mib == pytest.approx(peak_mib, rel=0.15, abs=8)
