from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
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
print(use.peak_gib())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts no peak")
def test_network_and_steps_count_and_data_do_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert abs(float(done.stdout) - (2**27 + 2**29) / 2**30) < 0.03
