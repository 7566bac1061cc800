"""Settings of all tests, made before torch is loaded."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: see selfseg.cli.main
os.environ.setdefault("MPLBACKEND", "Agg")
