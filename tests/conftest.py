"""Settings of all tests, made before torch is loaded."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: see selfseg.cli.main
os.environ.setdefault("MPLBACKEND", "Agg")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and their programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _float32_on_every_cpu() -> Iterator[None]:
    """Compare with closed forms in float32, also where a CPU has reduced formats.

    Commands that tests start as a user would compute as they do for users.
    """
    from selfseg.networks import precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "cpu_has_native_bfloat16", lambda: False)
        patch.setattr(precision, "cpu_has_native_float16", lambda: False)
        precision.autocast_dtype.cache_clear()
        yield
