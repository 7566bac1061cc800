"""Settings of all tests, made before torch is loaded; what a command changes is put back."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: see selfseg.cli.main
os.environ.setdefault("MPLBACKEND", "Agg")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and their programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _as_before_the_command() -> Iterator[None]:
    """Put back what a command sets for its process: what SIGTERM does, and what is told."""
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("selfseg")
    level = logger.level
    yield
    signal.signal(signal.SIGTERM, handler)
    logger.setLevel(level)
