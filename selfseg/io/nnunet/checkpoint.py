"""Turn nnU-Net's checkpoints into tensors: checked first, then read by a process of its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import ModelError
from selfseg.io.archive import DAMAGED
from selfseg.io.nnunet.facts import EXIT_REFUSED, FACTS, TENSORS, CheckpointFacts
from selfseg.records import serial

# The largest published models have some hundred million weights: 4 GiB with optimizer state.
LARGEST_GIB = 16.0
# The pickle itself holds names and the plans, some hundred kB.
LARGEST_PICKLE_MIB = 64.0
MOST_ENTRIES = 100_000
SECONDS_EACH = 600.0

# An isolated process sees neither PYTHONPATH nor the current folder, from which this package may
# come. It is told where this package is, and looks for nothing else there.
PACKAGE = Path(__file__).resolve().parents[2]
READER = """
import sys
from importlib import util
spec = util.spec_from_file_location("selfseg", sys.argv[1])
sys.modules["selfseg"] = util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["selfseg"])
from selfseg.io.nnunet.read_checkpoint import main
sys.exit(main(sys.argv[2:]))
"""

TRUST = "Ask who made it for a checkpoint as nnU-Net v2 itself writes it (torch 1.6 or newer)."
AGAIN = f"Copy or download it again: it may have been cut off or changed on its way. {TRUST}"


@dataclass(frozen=True)
class ReadCheckpoint:
    """A checkpoint that was read.

    Attributes:
        source: The checkpoint.
        facts: What it says of its training.
        tensors: Safetensors file with the weights, under nnU-Net's names.
    """

    source: Path
    facts: CheckpointFacts
    tensors: Path


def read_checkpoints(sources: Sequence[Path], folder: Path) -> tuple[ReadCheckpoint, ...]:
    """Read checkpoints in a separate process; what they become is written into a folder.

    Raises:
        ModelError: One is no zip archive of torch, is too large, or holds anything but tensors,
            containers and plain numbers.
    """
    for source in sources:
        check_archive(source)
    outputs = [folder / f"checkpoint_{index}" for index in range(len(sources))]
    pairs = [str(part) for pair in zip(sources, outputs, strict=True) for part in pair]
    command = [sys.executable, "-I", "-c", READER, str(PACKAGE / "__init__.py"), *pairs]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_EACH * len(sources),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{sources[0].parent}: reading took longer than {error.timeout:.0f} s", remedy=TRUST
        ) from error
    if done.returncode == EXIT_REFUSED:
        raise ModelError(done.stderr.strip().splitlines()[-1], remedy=AGAIN)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(
            f"{', '.join(map(str, sources))}: reading failed ({lines[-1]})",
            remedy="If memory ran out, close other programs and import again.",
        )
    return tuple(
        ReadCheckpoint(source, serial.load(CheckpointFacts, output / FACTS), output / TENSORS)
        for source, output in zip(sources, outputs, strict=True)
    )


def check_archive(path: Path) -> None:
    """Refuse what cannot be a checkpoint of torch, or would become too large in memory.

    Raises:
        ModelError: With the finding.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (*DAMAGED, OSError) as error:
        raise ModelError(f"{path}: no checkpoint of torch ({error})", remedy=AGAIN) from error
    total = sum(entry.file_size for entry in entries)
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    findings = (
        (len(entries) > MOST_ENTRIES, f"has {len(entries)} entries, at most {MOST_ENTRIES}"),
        (
            any(entry.compress_type != zipfile.ZIP_STORED for entry in entries),
            "has compressed entries, which torch does not write",
        ),
        (total > LARGEST_GIB * 2**30, f"holds {total / 2**30:.1f} GiB, at most {LARGEST_GIB:g}"),
        (len(pickles) != 1, f"has {len(pickles)} pickles, must have one"),
        (
            any(entry.file_size > LARGEST_PICKLE_MIB * 2**20 for entry in pickles),
            f"has a pickle of more than {LARGEST_PICKLE_MIB:g} MiB",
        ),
    )
    for wrong, finding in findings:
        if wrong:
            raise ModelError(f"{path}: {finding}", remedy=TRUST)
