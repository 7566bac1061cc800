"""Settings of all tests, made before torch is loaded."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: see selfseg.cli.main
os.environ.setdefault("MPLBACKEND", "Agg")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and their programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
